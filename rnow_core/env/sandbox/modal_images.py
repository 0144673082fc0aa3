"""Images at Modal: of a registry, or built there from the project's Dockerfile.NAME."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.env.sandbox.context import context_files, copy_context
from rnow_core.env.sandbox.dockerfile import own_command, own_health
from rnow_core.env.sandbox.health import HealthCheck
from rnow_core.env.sandbox.images import BUILD_SECONDS, LOCAL
from rnow_core.env.sandbox.modal_sdk import modal_errors
from rnow_core.errors import RnowError


@dataclass(frozen=True, slots=True)
class HostedImage:
    """An image that Modal has. `handle`: the SDK's; `command` and `health`: what Dockerfile.NAME says, nothing for
    a registry's image, which cannot be asked.
    """

    name: str
    handle: Any
    command: tuple[str, ...] = ()
    health: HealthCheck | None = None


class HostedImages:
    """The images of a project, each prepared once. `app`: the SDK's, under which builds run."""

    def __init__(self, sdk: Any, app: Any, project: Path) -> None:
        self._sdk, self._app, self._project = sdk, app, project
        self._ready: dict[str, HostedImage] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, name: str) -> HostedImage:
        """The image of this name (`local/NAME` or a registry's). RnowError when it cannot be had."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._ready:
                local = name.startswith(LOCAL)
                self._ready[name] = await (self._local(name) if local else self._registry(name))
            return self._ready[name]

    async def _registry(self, name: str) -> HostedImage:
        return HostedImage(name, await self._built(name, self._sdk.Image.from_registry(name)))

    async def _local(self, name: str) -> HostedImage:
        short = name.removeprefix(LOCAL)
        dockerfile = self._project / f"Dockerfile.{short}"
        if not dockerfile.is_file() or "/" in short:
            hint = f"add Dockerfile.{short} beside config.yml, or name an image of a registry"
            raise RnowError(f"`{name}` needs Dockerfile.{short}, which is not in {self._project}", hint)
        with tempfile.TemporaryDirectory(prefix="rnow-build-") as folder:
            copy_context(self._project, context_files(self._project, dockerfile), Path(folder))
            recipe = self._sdk.Image.from_dockerfile(dockerfile, context_dir=folder)
            handle = await self._built(name, recipe)
        text = dockerfile.read_text()
        return HostedImage(name, handle, tuple(own_command(text)), own_health(text))

    async def _built(self, name: str, image: Any) -> Any:
        """Build now, so that a mistake is told as one. The result is named by its id: no local file is read again."""
        with modal_errors(self._sdk, f"preparing the image {name} at Modal"):
            async with asyncio.timeout(BUILD_SECONDS):
                # Our first process runs the command itself, and stays when that ends.
                built = await image.entrypoint([]).build.aio(self._app)
                return await self._sdk.Image.from_id.aio(built.object_id)
