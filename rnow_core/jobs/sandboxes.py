"""`rnow sandbox ls` and `gc`: the containers of every program that answers."""

from __future__ import annotations

from contextlib import suppress

from rnow_core.env.sandbox.cleanup import SandboxRow, collect_garbage, list_sandboxes
from rnow_core.env.sandbox.engine import ENGINES, Engine, find_engine
from rnow_core.env.sandbox.hosted import collect_hosted_garbage, list_hosted
from rnow_core.errors import EnvironmentMissing


async def list_all(*, modal: bool) -> list[SandboxRow]:
    """Our containers, those of other processes included; with `modal` the sandboxes there instead.

    EnvironmentMissing when no container program answers, or without Modal's package and credentials.
    """
    if modal:
        return await list_hosted()
    return [row for engine in await _engines() for row in await list_sandboxes(engine)]


async def remove(*, everything: bool, modal: bool) -> list[str]:
    """Remove the containers whose run has ended, or with `everything` all of ours; their names."""
    if modal:
        return await collect_hosted_garbage(everything=everything)
    found = [await collect_garbage(engine, everything=everything) for engine in await _engines()]
    return [name for names in found for name in names]


async def _engines() -> list[Engine]:
    """Each program once: `docker` may be podman under another name."""
    found: dict[str, Engine] = {}
    for name in ENGINES:
        with suppress(EnvironmentMissing):
            engine = await find_engine(name)
            found.setdefault(engine.name, engine)
    return list(found.values()) or [await find_engine()]
