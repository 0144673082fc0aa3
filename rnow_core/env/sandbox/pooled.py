"""Sandboxes that take time to start: one for each rollout from a warm pool, or one that the run shares."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.runner_process import RunnerProcess, RunnerStartError
from rnow_core.env.sandbox.pool import WarmPool
from rnow_core.env.tool_types import SandboxSpec
from rnow_core.errors import RnowError, RolloutFailed

TOOLS_FILE = "tools.py"
MAX_REPLACED = 3
"""So many containers of one rollout may die; after that the rollout fails."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What must be equal for one sandbox to do for another."""

    image: str
    env: tuple[tuple[str, str], ...]
    secrets: tuple[tuple[str, str], ...]
    network: bool
    files: tuple[tuple[str, str], ...]


class Isolated(Protocol):
    """Something that runs, here or elsewhere, and in which a runner can be started: a container."""

    @property
    def gone(self) -> bool:
        """Whether it was removed."""

    def runner_command(self, mark: str) -> list[str]:
        """The command line that starts a runner inside; `mark` is what `end_runner` finds it by."""

    async def end_runner(self, mark: str) -> None:
        """End a runner and all that it started; if that cannot be done, everything."""

    async def log_tail(self) -> str:
        """The last lines that the image's own program printed."""

    async def remove(self) -> None:
        """End it and what is inside."""


class _Place:
    """The container of a sandbox, or of all sandboxes of a kind: replaced by a fresh one when it has died."""

    def __init__(self, sandboxes: PooledSandboxes, kind: Kind) -> None:
        self._sandboxes, self._kind = sandboxes, kind
        self._container: Isolated | None = None
        self._lock = asyncio.Lock()

    async def container(self, instead_of: Isolated | None = None) -> Isolated:
        """The container; a new one when there is none yet, it is gone, or it is the one that is of no use."""
        async with self._lock:
            current = self._container
            if current is not None and (current.gone or current is instead_of):
                await current.remove()
                current = self._container = None
            if current is None:
                current = self._container = await self._sandboxes.start_container(self._kind)
            return current

    async def close(self) -> None:
        """Remove the container."""
        async with self._lock:
            if self._container is not None:
                await self._container.remove()


class ContainerSandbox:
    """A runner in a container. When the container dies, the next call finds a fresh one without the old state."""

    def __init__(self, sandboxes: PooledSandboxes, kind: Kind, place: _Place, *, shared: bool) -> None:
        self.kind = kind
        self._sandboxes, self._place, self._shared = sandboxes, place, shared
        self._container: Isolated | None = None
        self._runner: RunnerProcess | None = None
        self._lock = asyncio.Lock()
        self._replaced = 0
        self._closed = False

    async def runner(self) -> RunnerProcess:
        """The runner inside with tools.py loaded. RolloutFailed when containers keep dying; FindingsError when
        tools.py cannot be loaded inside.
        """
        async with self._lock:
            if self._closed:
                raise RolloutFailed("the sandbox is closed")
            problem: RunnerStartError | None = None
            while self._runner is None or not self._runner.alive:
                container = await self._place.container(self._container if problem else None)
                await self._count(container, problem)
                try:
                    self._runner = await self._start_runner(container)
                except RunnerStartError as error:
                    problem = error
            return self._runner

    async def close(self) -> None:
        """Give it back; what ran inside is ended in the background."""
        if not self._closed:
            self._closed = True
            self._sandboxes.give_back(self)

    async def end(self) -> None:
        """End what runs inside, and the container unless it is shared."""
        self._closed = True
        if not self._shared:
            await self._place.close()
        if self._runner is not None:
            await self._runner.kill()

    async def _start_runner(self, container: Isolated) -> RunnerProcess:
        mark = secrets.token_hex(8)
        runner = RunnerProcess(
            container.runner_command(mark),
            # podman's monitor leaves a file `oom` where it was started when a container's memory is used up
            cwd=Path(tempfile.gettempdir()),
            log=self._sandboxes.log,
            kill=lambda: container.end_runner(mark),
            secrets=[value for _, value in self.kind.secrets],
        )
        try:
            await runner.start()
            if TOOLS_FILE in dict(self.kind.files):
                await runner.load(dict(self.kind.files), TOOLS_FILE)
        except BaseException:
            await asyncio.shield(runner.kill())
            raise
        return runner

    async def _count(self, container: Isolated, problem: RunnerStartError | None) -> None:
        """Remember the container; RolloutFailed when it is one too many."""
        self._replaced += self._container is not None and container is not self._container
        self._container = container
        if self._replaced > MAX_REPLACED:
            log = await container.log_tail()
            said = f"{problem.message}: {problem.hint}; " if problem else ""
            message = f"{self._replaced} containers of {self.kind.image} came to an end in one rollout"
            raise RolloutFailed(message, said + (f"the last one's log: {log}" if log else "its log is empty"))


class PooledSandboxes(ABC):
    """`Sandboxes` that are started ahead, at most `limit` at once. `log`: where the output of tools is appended."""

    def __init__(self, config: SandboxConfig, limit: int, log: Path | None) -> None:
        self.log = log
        self.config = config
        self._shared: dict[Kind, _Place] = {}
        self._open: set[ContainerSandbox] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._pool: WarmPool[ContainerSandbox] = WarmPool(self._made, ContainerSandbox.end, limit)

    @abstractmethod
    async def start_container(self, kind: Kind) -> Isolated:
        """A container of this kind, ready."""

    @abstractmethod
    async def clean_up(self) -> None:
        """Remove whatever of this run is left."""

    async def open(self, spec: SandboxSpec) -> ContainerSandbox:
        """A sandbox with its runner started; waits while `sandbox.max_containers` are in use."""
        kind = _kind(spec)
        if self.config.scope == "run":
            place = self._shared.setdefault(kind, _Place(self, kind))
            sandbox = ContainerSandbox(self, kind, place, shared=True)
            await sandbox.runner()
        else:
            sandbox = await self._pool.take(kind)
        self._open.add(sandbox)
        return sandbox

    def prepare(self, spec: SandboxSpec, count: int) -> None:
        """Start `count` sandboxes ahead, in the background."""
        if self.config.scope == "rollout":
            self._pool.prepare(_kind(spec), count)

    async def close(self) -> None:
        """Remove every container that this started."""
        await self._pool.close()
        await asyncio.gather(
            *(sandbox.end() for sandbox in self._open), *self._closing, return_exceptions=True
        )
        await self.clean_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.shield(self.close())

    def give_back(self, sandbox: ContainerSandbox) -> None:
        """Called by a sandbox that was closed."""
        self._open.discard(sandbox)
        if self.config.scope == "rollout":
            self._pool.give_back(sandbox.kind, sandbox)
            return
        task = asyncio.create_task(sandbox.end())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _made(self, kind: Hashable) -> ContainerSandbox:
        assert isinstance(kind, Kind)
        sandbox = ContainerSandbox(self, kind, _Place(self, kind), shared=False)
        try:
            await sandbox.runner()
        except BaseException:
            await asyncio.shield(sandbox.end())
            raise
        return sandbox


def _kind(spec: SandboxSpec) -> Kind:
    if spec.image is None:
        raise RnowError("a row without `docker` needs no container", "give the row `docker`, an image")
    env, hidden, files = (tuple(sorted(part.items())) for part in (spec.env, spec.secrets, spec.files))
    return Kind(spec.image, env, hidden, spec.network, files)
