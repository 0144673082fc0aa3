"""The versions of one student on one vLLM server, in whatever form the server holds them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from rnow_core.errors import RunFailed
from rnow_core.types import AdapterVersion

T = TypeVar("T")
LABEL = "/update_weight_version"
"""Route that labels the weights of a server; with the other routes that change them it is closed outside of vLLM's
development mode."""
DEVELOPMENT = (
    "start it with VLLM_SERVER_DEV_MODE=1 (vLLM 0.32 or newer), or train an adapter: model.qlora_rank 32"
)


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(eq=False, slots=True)
class Served:
    """One version on the server, the base model (no path) among them, with its requests in flight.

    `name` is the policy's, `model` what requests ask the server for. `salt` keeps its prefix cache apart from that of
    all others, also of another run's version of that name; vLLM takes no `/` in it, which names of models have.
    """

    name: str
    model: str
    path: Path | None = None
    salt: str = field(default_factory=lambda: secrets.token_hex(16))
    requests: int = 0
    idle: asyncio.Event = field(default_factory=_set)

    @contextmanager
    def request(self) -> Iterator[Served]:
        """Count one request for as long as it runs."""
        self.requests += 1
        self.idle.clear()
        try:
            yield self
        finally:
            self.requests -= 1
            if not self.requests:
                self.idle.set()


class Versions(Protocol):
    """Says which version a request runs with, and changes it."""

    async def run(self, ask: Callable[[Served], Awaitable[T]]) -> T:
        """What `ask` returns for the current version; it is called again when the server had lost that version."""
        ...

    async def switch(self, version: AdapterVersion) -> None:
        """Load `version` and make it current. RunFailed when the server cannot."""
        ...

    def ask_for(self, name: str) -> None:
        """Call the server's base model `name` from now on."""
        ...

    async def close(self) -> None:
        """End what still waits."""
        ...


def folder_of(version: AdapterVersion, current: Served) -> Path:
    """Where the weights of a new version are. RunFailed without a folder, or when it is the current one."""
    if version.path is None:
        raise RunFailed(
            f"version {version.name!r} has no folder; a vLLM server needs one to load the weights from"
        )
    if version.name == current.name:
        raise RunFailed(f"version {version.name!r} is in use already; every version needs its own name")
    return version.path.resolve()
