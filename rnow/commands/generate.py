"""`rnow generate`: teacher data for off-policy distillation."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from rnow.commands.run import load_env_file
from rnow.display.generate import choose_progress, show_summary
from rnow.signals import stop_on_signals
from rnow_core.errors import EnvironmentMissing, UsageError
from rnow_core.stop import StopSignal

NOTICE = "Stopping: the answers under way are paid for and are saved first. Press Ctrl-C again to stop now."


class Files(NamedTuple):
    """What is read and written. `tools` is a file, or `none`."""

    source: Path
    output: Path
    tools: str
    system: str | None
    num: int | None


class Sampling(NamedTuple):
    """How the teacher answers."""

    model: str
    max_tokens: int
    max_turns: int
    temperature: float
    reasoning: bool


class Server(NamedTuple):
    """Where the teacher is. `key_env` may be `none`; `price` is `IN,OUT`. `local`: here, run by `engine`."""

    base_url: str
    key_env: str
    provider: str | None
    price: str | None
    local: bool
    engine: Literal["hf", "vllm"] | None


class Limits(NamedTuple):
    """When to stop: dollars, minutes, prompts, seconds of a request, minutes without a success."""

    max_cost: float | None
    max_minutes: float | None
    dry_run: int | None
    timeout: float
    breaker_minutes: float


class Quality(NamedTuple):
    """Which prompts are asked about and which answers are kept. `student` is a folder, a hub id or `none`."""

    best_of: int
    min_reward: float | None
    dedup: bool
    eval_file: Path | None
    drop_overlap: bool
    student: str | None


def generate(
    files: Files,
    sampling: Sampling,
    server: Server,
    limits: Limits,
    quality: Quality,
    concurrency: int,
    as_json: bool,
) -> int:
    """Generate, show how far it is and what came out."""
    tools = None if files.tools == "none" else Path(files.tools)
    _check_local(server, sampling, limits)
    price = _price(server.price)
    _prepare(tools)
    display = choose_progress(as_json)
    stop = StopSignal()
    try:
        with stop_on_signals(stop, lambda _: display.notice(NOTICE)):
            from rnow_core.jobs import generate as job

            named = {**sampling._asdict(), **limits._asdict(), **files._asdict(), **quality._asdict()}
            request = job.GenerateRequest(
                **{**named, "tools": tools},
                base_url=server.base_url,
                key_env=None if server.key_env == "none" else server.key_env,
                provider=server.provider,
                price=price,
                concurrency=concurrency,
                local=server.local,
                engine=server.engine,
            )
            summary = job.generate(request, display.show, stop)
    finally:
        display.close()
    show_summary(summary, as_json)
    return 0


def _check_local(server: Server, sampling: Sampling, limits: Limits) -> None:
    """UsageError for options of a server beside --local, and for --engine without it."""
    if not server.local:
        if server.engine:
            raise UsageError("--engine says what runs a local model", "add --local, or leave it out")
        return
    from rnow.cli_generate import MODEL, OPENROUTER

    asked = {
        "--base-url": server.base_url != OPENROUTER,
        "--provider": server.provider is not None,
        "--price": server.price is not None,
        "--max-cost": limits.max_cost is not None,
    }
    given = [name for name, found in asked.items() if found]
    if given:
        raise UsageError(
            f"{', '.join(given)} is for a server, and --local runs the model here, at no price",
            "leave it out, or leave --local out; --max-minutes bounds the time",
        )
    if sampling.model == MODEL:
        raise UsageError(
            "--local needs the model to run", "name a folder or a Hugging Face id: -m Qwen/Qwen3-8B"
        )


def _price(option: str | None) -> tuple[float, float] | None:
    """`0.15,0.60`: dollars of a million tokens, read and written."""
    if option is None:
        return None
    try:
        read, written = (float(part) for part in option.split(","))
    except ValueError:
        message = f"--price takes two numbers, got '{option}'"
        raise UsageError(
            message, "dollars of a million tokens, read and written: --price 0.15,0.60"
        ) from None
    return read, written


def load_env_files(tools: Path | None) -> None:
    """Read `.env`, here and beside tools.py."""
    for folder in dict.fromkeys([Path(), *([tools.parent] if tools else [])]):
        load_env_file(folder)


def _prepare(tools: Path | None) -> None:
    """Read `.env`; EnvironmentMissing when the packages for HTTP are not installed."""
    load_env_files(tools)
    missing = [name for name in ("httpx2", "stamina") if find_spec(name) is None]
    if missing:
        raise EnvironmentMissing(
            f"requests to a teacher need {', '.join(missing)}, not installed here",
            'pip install "rnow-distill[train]"',
        )
