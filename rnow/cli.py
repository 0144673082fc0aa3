"""The commands and their options. Each body only hands over to its module in `rnow.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rnow import __version__
from rnow.cli_eval import evaluate
from rnow.cli_generate import generate
from rnow_core.errors import UsageError

EXIT_CODES = """\b
Exit codes:
  0    ok
  1    findings, or the run failed
  2    the command was used wrongly
  3    something is missing: docker, a GPU, an extra, a key
  4    it would overwrite something
  130  interrupted
"""

app = typer.Typer(
    name="rnow",
    help="Distil a big model into a small one on your own hardware.",
    epilog=EXIT_CODES,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def _gpus(role: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        metavar="0,1", help=f"GPUs that {role} [default: the plan's].", rich_help_panel="GPUs"
    )
    return option


def _parallel(what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(metavar="N", min=1, help=what, rich_help_panel="GPUs")
    return option


InferenceGpus = Annotated[str | None, _gpus("sample")]
TeacherGpus = Annotated[str | None, _gpus("hold the teacher")]
TrainerGpus = Annotated[str | None, _gpus("train")]
InferenceTensor = Annotated[int | None, _parallel("GPUs that share one sampler.")]
InferenceData = Annotated[int | None, _parallel("Copies of the sampler.")]
TeacherTensor = Annotated[int | None, _parallel("GPUs that share one teacher.")]
TeacherData = Annotated[int | None, _parallel("Copies of the teacher.")]
TrainerData = Annotated[int | None, _parallel("Ranks of the learner.")]


def invoke(args: list[str]) -> int:
    """Parse `args`, run the command, return its exit code. A wrong call raises rnow's own UsageError."""
    command = typer.main.get_command(app)
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    try:
        with command.make_context("rnow", args or ["--help"]) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as stop:
        return stop.exit_code
    except usage_error as error:
        failed = getattr(error, "ctx", None)
        asked = failed.command_path if failed else "rnow"
        raise UsageError(
            str(getattr(error, "format_message", error.__str__)()), f"See: {asked} --help"
        ) from error


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rnow {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Distil a big model into a small one on your own hardware."""


@app.command()
def init(
    template: Annotated[str, typer.Argument(help="What to start from; see --list.")] = "",
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", show_default=False)] = Path(),
    show_list: Annotated[bool, typer.Option("--list", help="List the templates.")] = False,
    name: Annotated[str, typer.Option("--name", help="Project name [default: the folder's].")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change what the skill proposes, e.g. student=PATH."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, write nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite files that differ. Deletes nothing.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Set up a project from a template in DIR (default: here)."""
    from rnow.commands import init as command

    if show_list:
        return command.list_templates(as_json)
    request = command.InitRequest(template, directory, name, tuple(settings or ()), dry_run, force)
    return command.init(request, as_json)


@app.command()
def validate(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[DIR] [KEY=VALUE]", show_default=False)
    ] = None,
    inference_gpus: InferenceGpus = None,
    teacher_gpus: TeacherGpus = None,
    trainer_gpus: TrainerGpus = None,
    inference_tensor_parallel: InferenceTensor = None,
    inference_data_parallel: InferenceData = None,
    teacher_tensor_parallel: TeacherTensor = None,
    teacher_data_parallel: TeacherData = None,
    trainer_data_parallel: TrainerData = None,
    as_json: Json = False,
) -> int:
    """Check everything that can be checked before a run, and show its plan. Writes nothing."""
    from rnow.commands import validate as command
    from rnow.commands.gpus import GpuOptions

    gpus = GpuOptions(
        inference_gpus,
        teacher_gpus,
        trainer_gpus,
        inference_tensor_parallel,
        inference_data_parallel,
        teacher_tensor_parallel,
        teacher_data_parallel,
        trainer_data_parallel,
    )
    directory, overrides = command.split_arguments(arguments or [])
    return command.validate(directory, [*overrides, *gpus.overrides()], as_json)


@app.command()
def run(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", show_default=False)] = None,
    directory: Annotated[Path, typer.Option("--dir", "-d", metavar="DIR", help="The project.")] = Path(),
    name: Annotated[str | None, typer.Option("--name", help="The run's folder below runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only validate and show the plan.")] = False,
    inference_gpus: InferenceGpus = None,
    teacher_gpus: TeacherGpus = None,
    trainer_gpus: TrainerGpus = None,
    inference_tensor_parallel: InferenceTensor = None,
    inference_data_parallel: InferenceData = None,
    teacher_tensor_parallel: TeacherTensor = None,
    teacher_data_parallel: TeacherData = None,
    trainer_data_parallel: TrainerData = None,
    as_json: Json = False,
) -> int:
    """Train. Ctrl-C once: finish the step, save, stop; twice: stop now.

    KEY=VALUE changes a key of config.yml for this run: rnow run trainer.learning_rate=3e-5
    """
    from rnow.commands import run as command
    from rnow.commands.gpus import GpuOptions

    gpus = GpuOptions(
        inference_gpus,
        teacher_gpus,
        trainer_gpus,
        inference_tensor_parallel,
        inference_data_parallel,
        teacher_tensor_parallel,
        teacher_data_parallel,
        trainer_data_parallel,
    )
    request = command.RunRequest(directory, (*(overrides or ()), *gpus.overrides()), name, resume)
    return command.dry_run(request, as_json) if dry_run else command.run(request, as_json)


@app.command("test")
def trial(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", show_default=False)] = None,
    directory: Annotated[Path, typer.Option("--dir", "-d", metavar="DIR", help="The project.")] = Path(),
    rollouts: Annotated[
        int | None,
        typer.Option(
            "-n", metavar="N", min=1, help="Rollouts [default: of the first 3 rows; with --entry 1]."
        ),
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option("--entry", metavar="ROW", help="Only this row: 4, counted from 1, or train.jsonl:4."),
    ] = None,
    no_teacher: Annotated[
        bool, typer.Option("--no-teacher", help="Leave the teacher out: faster, no KL.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Everything in full; tokens with the largest KL marked.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Sample a few rollouts with the project's student, tools and rewards, and show them. Trains nothing.

    The conversations are shown with tool calls, tokens, rewards and the KL to the teacher, and saved below
    runs/test-TIME/ in the form of a run's rollouts. The same command samples the same rollouts; seed=1 others.
    Models run in this process unless the config asks for vllm, or they do not fit. Exit code 1 when a rollout failed.
    """
    from rnow.commands import test as command

    request = command.TrialOptions(directory, tuple(overrides or ()), rollouts, entry, not no_teacher)
    return command.test(request, verbose, as_json)


app.command("eval")(evaluate)
app.command()(generate)


@app.command()
def doctor(
    directory: Annotated[Path, typer.Option("--dir", "-d", metavar="DIR", help="The project.")] = Path(),
    as_json: Json = False,
) -> int:
    """Check this machine: Python, packages, GPUs, disk, containers, keys; and the project around DIR, if any.

    Exit code 3 when something needed is missing: Python 3.11, the training packages, a torch that can use the GPU
    that is there; and for a project what it asks for: vllm, wandb, mcp, containers, bubblewrap, secrets. The rest
    are warnings, and exit code 0.
    """
    from rnow.commands import doctor as command

    return command.doctor(directory, as_json)


Modal = Annotated[bool, typer.Option("--modal", help="Those at Modal instead of this machine's.")]
sandbox = typer.Typer(help="Look at the containers that tools run in.", rich_markup_mode=None)
app.add_typer(sandbox, name="sandbox")


@sandbox.command("ls")
def sandbox_ls(modal: Modal = False, as_json: Json = False) -> int:
    """List the containers of all runs on this machine."""
    from rnow.commands import sandbox as command

    return command.ls(modal, as_json)


@sandbox.command("gc")
def sandbox_gc(
    everything: Annotated[
        bool, typer.Option("--all", help="Also those of runs that are still going.")
    ] = False,
    modal: Modal = False,
    as_json: Json = False,
) -> int:
    """Remove the containers of runs that have ended."""
    from rnow.commands import sandbox as command

    return command.gc(everything, modal, as_json)


@app.command()
def schema(
    field: Annotated[str, typer.Option("--field", metavar="a.b", help="Only this key of config.yml.")] = "",
    as_json: Json = False,
) -> int:
    """Print the JSON Schema of config.yml, or explain one key."""
    from rnow.commands import schema as command

    return command.schema(field, as_json)
