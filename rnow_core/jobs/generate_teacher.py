"""The teacher that a generation asked for, checked before anything is started."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rnow_core.build.chat_teacher import GOES_ON, LocalPlan, LocalTeacher, choose_engine
from rnow_core.data.renderer import Renderer
from rnow_core.data.tool_calls.formats import Format, FormatError, detect_format
from rnow_core.errors import FindingsError, Interrupted, RnowError
from rnow_core.models.chat_http import ChatClient
from rnow_core.preflight.machine import gpu_memory, machine_memory
from rnow_core.preflight.memory import Sizes, cache_bytes
from rnow_core.preflight.model_facts import ModelFacts, read_config
from rnow_core.preflight.models import MALFORMED, config_file, local_folder
from rnow_core.preflight.weight_files import count_weights
from rnow_core.rollout.ask import ChatTeacher
from rnow_core.stop import StopSignal
from rnow_core.track.events import Emit, Event

KEY = "--model"
TELL_EVERY_S = 10.0
TICK_S = 0.1

Engine = Literal["hf", "vllm"]


@dataclass(frozen=True)
class Endpoint:
    """A chat server elsewhere. `key_env`: the variable that holds its key, or None. timeout: seconds of a request."""

    base_url: str
    key_env: str | None
    timeout: float


@dataclass(frozen=True)
class LocalModel:
    """A model of this machine: a folder or hub id. `engine` None: vLLM where it is installed and a GPU is there.

    `at_once`: conversations side by side. max_tokens: of one reply. log: what its server prints.
    """

    path: str
    engine: Engine | None
    tools: bool
    at_once: int
    max_tokens: int
    log: Path


def make_teacher(wanted: Endpoint | LocalModel) -> ChatTeacher:
    """The teacher, with nothing sent or loaded yet.

    Raises:
        EnvironmentMissing: the key, or the packages for a local model, are not there.
        RnowError: there is no such model, it has no tools, or it does not fit.
    """
    if isinstance(wanted, Endpoint):
        return ChatClient(wanted.base_url, wanted.key_env, timeout_s=wanted.timeout)
    gpus = gpu_memory()
    engine = choose_engine(wanted.engine, len(gpus))
    try:
        folder = local_folder(wanted.path, Path(), KEY)
        facts, renderer = _read(wanted.path, folder)
    except FindingsError as error:
        raise RnowError(f"{KEY}: {error.findings[0].message}", error.findings[0].hint) from error
    except MALFORMED as error:
        message = getattr(error, "message", f"{type(error).__name__}: {error}")
        raise RnowError(f"{KEY} {wanted.path}: {message}", getattr(error, "hint", "")) from error
    plan = LocalPlan(
        path=str(folder or wanted.path),
        engine=engine,
        parameters=facts.parameters,
        token_bytes=cache_bytes(facts, None, Sizes(0, bool(gpus), 0, False)),
        window=facts.context_window,
        at_once=wanted.at_once,
        gpus=len(gpus),
        memory=min(gpus) if gpus else machine_memory(),
        log=wanted.log,
    )
    form = _call_format(renderer) if wanted.tools else None
    return LocalTeacher(plan, renderer, form, plan.usable_window(wanted.max_tokens))


async def start_teacher(teacher: ChatTeacher, emit: Emit, stop: StopSignal) -> None:
    """Start it, and tell how far that is. Interrupted when a stop is asked for meanwhile."""
    told = -TELL_EVERY_S

    def progress(seconds: float, message: str) -> None:
        nonlocal told
        if seconds - told >= TELL_EVERY_S:
            told = seconds
            emit(Event("progress", {"message": message}))

    starting = asyncio.create_task(teacher.start(progress))
    while not starting.done():
        await asyncio.wait([starting], timeout=TICK_S)
        if stop.requested and not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            raise Interrupted("stopped by the user before the teacher was loaded", GOES_ON)
    await starting


def _read(path: str, folder: Path | None) -> tuple[ModelFacts, Renderer]:
    """Sizes, tokenizer and template of a model, without its weights."""
    facts = read_config(config_file(path, Path(), KEY), path, KEY)
    count = count_weights(folder, path, KEY) if folder else None
    return replace(facts, parameters=count or facts.parameters), Renderer.load(folder or path)


def _call_format(renderer: Renderer) -> Format:
    try:
        return detect_format(renderer)
    except FormatError as error:
        raise RnowError(error.message, "use a teacher with tool support, or --tools none") from error
