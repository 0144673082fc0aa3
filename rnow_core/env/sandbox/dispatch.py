"""Which sandbox a row gets: a container of its image, here or at Modal, or bubblewrap when it names none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox.bubblewrap import BubblewrapSandboxes
from rnow_core.env.sandbox.containers import ContainerSandboxes, start_containers
from rnow_core.env.sandbox.engine import find_engine
from rnow_core.env.sandbox.hosted import ModalSandboxes, start_hosted
from rnow_core.env.sandbox.modal_sdk import load_sdk
from rnow_core.env.tool_types import Sandbox, SandboxSpec


class RowSandboxes:
    """The `Sandboxes` of a run. A container engine is looked for when the first row with an image comes.

    run: its name, for labels. log: where the output of tools is appended. block_private=False leaves private
    addresses reachable from containers, which only a user may ask for.
    """

    def __init__(
        self,
        config: SandboxConfig,
        project: Path,
        *,
        run: str,
        log: Path | None = None,
        block_private: bool = True,
    ) -> None:
        self._config, self._project, self._run, self._log = config, project, run, log
        self._block_private = block_private
        self._bubblewrap = BubblewrapSandboxes(config, log=log)
        self._containers: ContainerSandboxes | ModalSandboxes | None = None
        self._starting = asyncio.Lock()

    async def open(self, spec: SandboxSpec) -> Sandbox:
        """A fresh sandbox with its runner started; see the `open` of the two kinds for what it raises."""
        if spec.image is None:
            return await self._bubblewrap.open(spec)
        return await (await self.containers()).open(spec)

    async def prepare(self, spec: SandboxSpec, count: int) -> None:
        """Start `count` sandboxes ahead, in the background."""
        if spec.image is not None:
            (await self.containers()).prepare(spec, count)

    async def build(self, images: Iterable[str]) -> None:
        """Pull or build images, so that what is wrong with one shows before anything else is started."""
        for image in images:
            await (await self.containers()).images.get(image)

    async def containers(self) -> ContainerSandboxes | ModalSandboxes:
        """The containers of the run; EnvironmentMissing when there is no engine, or no account at Modal."""
        async with self._starting:
            if self._containers is None:
                self._containers = await self._start()
            return self._containers

    async def _start(self) -> ContainerSandboxes | ModalSandboxes:
        if self._config.engine == "modal":
            return await start_hosted(self._config, self._project, run=self._run, log=self._log)
        return await start_containers(
            self._config, self._project, run=self._run, log=self._log, block_private=self._block_private
        )

    async def close(self) -> None:
        """Remove every container of the run."""
        async with self._starting:
            if self._containers is not None:
                await self._containers.close()

    async def __aenter__(self) -> RowSandboxes:
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.shield(self.close())


async def require_containers(config: SandboxConfig) -> None:
    """EnvironmentMissing when rows with an image can have no sandbox: no container program that answers, or for
    `sandbox.engine: modal` no package or no credentials, which are not tried.
    """
    if config.engine == "modal":
        load_sdk()
    else:
        await find_engine(config.engine)
