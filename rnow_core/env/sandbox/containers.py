"""Sandboxes in containers of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox.cleanup import collect_garbage, remove_own
from rnow_core.env.sandbox.container import Container
from rnow_core.env.sandbox.engine import Engine, find_engine
from rnow_core.env.sandbox.images import Images
from rnow_core.env.sandbox.pooled import Kind, PooledSandboxes
from rnow_core.env.sandbox.recipe import Recipe, memory_bytes

MAX_CONTAINERS = 64
_MEMORY_SHARE = 0.8
_MEMINFO = Path("/proc/meminfo")


class ContainerSandboxes(PooledSandboxes):
    """The `Sandboxes` of rows with an image, in containers of this machine.

    `block_private=False` leaves private addresses reachable, which only a user may ask for.
    """

    def __init__(
        self,
        engine: Engine,
        config: SandboxConfig,
        project: Path,
        *,
        run: str,
        log: Path | None = None,
        block_private: bool = True,
    ) -> None:
        super().__init__(config, most(config), log)
        self.images = Images(engine, project)
        self._engine, self._run, self._block_private = engine, run, block_private

    async def start_container(self, kind: Kind) -> Container:
        """A container of this kind, ready."""
        image = await self.images.get(kind.image)
        network = kind.network and self.config.network != "none"
        env, hidden = dict(kind.env), dict(kind.secrets)
        container = Container(self._engine, Recipe(image, self.config, env, hidden, network, self._run))
        await container.start(block_private=self._block_private)
        return container

    async def clean_up(self) -> None:
        """Stop what is being built, and remove the containers of this run."""
        await self.images.close()
        await remove_own(self._engine, self._run)


async def start_containers(
    config: SandboxConfig, project: Path, *, run: str, log: Path | None = None, block_private: bool = True
) -> ContainerSandboxes:
    """Find the engine, remove what ended processes left behind, and be ready to open sandboxes.

    Raises EnvironmentMissing when there is no container program that answers.
    """
    engine = await find_engine(config.engine)
    await collect_garbage(engine)
    return ContainerSandboxes(engine, config, project, run=run, log=log, block_private=block_private)


def most(config: SandboxConfig) -> int:
    """Containers at once: as configured, else as many as fit into 80 % of the memory that is free now."""
    if config.max_containers is not None:
        return config.max_containers
    if not _MEMINFO.exists():
        return max(1, os.cpu_count() or 1)
    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    return max(1, min(MAX_CONTAINERS, int(_MEMORY_SHARE * free) // memory_bytes(config.memory)))
