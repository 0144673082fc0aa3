"""The options of `rnow eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[DIR] [KEY=VALUE]", show_default=False)
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="The run [default: the latest].")
    ] = None,
    checkpoint: Annotated[
        int | None, typer.Option("--checkpoint", metavar="STEP", min=0, help="Its step [default: the last].")
    ] = None,
    without_run: Annotated[
        bool, typer.Option("--base", help="No run: the student of config.yml before any training.")
    ] = False,
    no_base: Annotated[bool, typer.Option("--no-base", help="Leave the untrained student out.")] = False,
    no_teacher: Annotated[bool, typer.Option("--no-teacher", help="Leave the teacher out.")] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Problems [default: the project's held-out rows]."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("-k", metavar="N", min=1, help="Samples of each problem [default: eval.group_size]."),
    ] = None,
    rewards: Annotated[
        list[str] | None,
        typer.Option(
            "--reward",
            metavar="NAME",
            help="Judge by this, of rewards.py or exact, numeric, math, multiple_choice [default: the rows'].",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the results [default: says what they are].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")] = False,
) -> int:
    """Compare a run's student with its base and its teacher: avg@k, pass@k, intervals.

    Saved below runs/NAME/evals/ as a table (.json) and as one line a policy and problem with its replies (.jsonl).
    However it is stopped, the same command goes on where it was; what was sampled is not sampled again.
    """
    from rnow.commands import eval as command

    options = command.EvalOptions(
        run,
        checkpoint,
        without_run,
        not no_base,
        not no_teacher,
        file,
        samples,
        tuple(rewards or ()),
        name,
    )
    return command.evaluate(arguments or [], options, as_json)
