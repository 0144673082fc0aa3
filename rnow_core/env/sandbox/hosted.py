"""Sandboxes of the service Modal, behind the same seam as containers of this machine."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.runner.bundle import python_command
from rnow_core.env.sandbox.cleanup import SandboxRow
from rnow_core.env.sandbox.container import END_SECONDS, RUNNER_MARK
from rnow_core.env.sandbox.engine import CALL_SECONDS, Output
from rnow_core.env.sandbox.health import READY_SECONDS, wait_ready
from rnow_core.env.sandbox.inside import end_processes, keep_alive
from rnow_core.env.sandbox.modal_images import HostedImage, HostedImages
from rnow_core.env.sandbox.modal_sdk import APP, load_sdk, modal_errors
from rnow_core.env.sandbox.owner import Owner, this_process
from rnow_core.env.sandbox.pooled import Kind, PooledSandboxes
from rnow_core.env.sandbox.recipe import memory_bytes
from rnow_core.errors import RnowError

LIFETIME_SECONDS = 6 * 3600
"""After so long Modal ends a sandbox whatever happens; a run that still needs it gets a fresh one."""

START_SECONDS = 300.0
"""How long Modal may take until a new sandbox runs its first command."""

MAX_SANDBOXES = 64
PYTHON = "python3"
_BRIDGE = (sys.executable, "-P", "-m", "rnow_core.env.sandbox.modal_bridge")
_KEEP_ALIVE = Path(keep_alive.__file__).read_text()
_END_PROCESSES = Path(end_processes.__file__).read_text()
_PROBE = "import sys; sys.exit(sys.version_info < (3, 8))"


class ModalContainer:
    """One running sandbox at Modal. `gone`: it was removed, by us or because it could not be controlled any more."""

    def __init__(self, sdk: Any, handle: Any, image: HostedImage) -> None:
        self._sdk, self._handle, self._image = sdk, handle, image
        self.gone = False

    async def wait_ready(self) -> None:
        """Wait for Python and for the HEALTHCHECK. Whatever goes wrong, nothing of it is left.

        RnowError when the image has no Python of 3.8 or newer.
        """
        try:
            probe = await self._call(PYTHON, "-I", "-S", "-c", _PROBE, seconds=START_SECONDS)
            if probe.code:
                hint = f"tools run with the image's own `{PYTHON}`, 3.8 or newer: install it"
                raise RnowError(f"the image {self._image.name} has no such Python: {probe.reason}", hint)
            check = self._image.health
            if check is not None:
                await wait_ready(lambda: self._call(*check.command, seconds=check.seconds), READY_SECONDS)
        except BaseException:
            await asyncio.shield(self.remove())
            raise

    def runner_command(self, mark: str) -> list[str]:
        """The command line of a program that starts a runner inside and passes everything on."""
        return [*_BRIDGE, self._handle.object_id, mark, *python_command(PYTHON)]

    async def end_runner(self, mark: str) -> None:
        """End a runner and all that it started; if that cannot be done, the whole sandbox."""
        if self.gone:
            return
        words = (PYTHON, "-I", "-S", "-c", _END_PROCESSES, f"{RUNNER_MARK}={mark}")
        try:
            ended = await self._call(*words, seconds=END_SECONDS)
        except RnowError:
            ended = None
        if ended is None or ended.code:
            await self.remove()

    async def log_tail(self) -> str:
        """Nothing: what the image's own program printed is in Modal's dashboard."""
        return ""

    async def remove(self) -> None:
        """End it and everything inside."""
        self.gone = True
        await _end(self._sdk, [self._handle])

    async def _call(self, *words: str, seconds: float) -> Output:
        """Run a command inside; EngineFailed when that cannot be done in time."""
        with modal_errors(self._sdk, f"running `{words[0]}` in a sandbox at Modal"):
            async with asyncio.timeout(seconds):
                process = await self._handle.exec.aio(*words, text=False)
                out, err = await asyncio.gather(_all(process.stdout), _all(process.stderr))
                return Output(await process.wait.aio(), out, err)


class ModalSandboxes(PooledSandboxes):
    """The `Sandboxes` of rows with an image, at Modal: what `sandbox.memory` and `cpus` say is asked for and is the
    limit. run: its name, for tags.
    """

    def __init__(
        self, sdk: Any, app: Any, config: SandboxConfig, project: Path, *, run: str, log: Path | None = None
    ) -> None:
        super().__init__(config, config.max_containers or MAX_SANDBOXES, log)
        self._sdk, self._app = sdk, app
        self.images = HostedImages(sdk, app, project)
        self._tags = {**_owner_tags(this_process()), "rnow-run": _plain(run)}

    async def start_container(self, kind: Kind) -> ModalContainer:
        """A sandbox of this kind, ready."""
        image = await self.images.get(kind.image)
        megabytes = max(1, memory_bytes(self.config.memory) >> 20)
        with modal_errors(self._sdk, f"starting a sandbox of {kind.image} at Modal"):
            async with asyncio.timeout(CALL_SECONDS):
                handle = await self._sdk.Sandbox.create.aio(
                    *(PYTHON, "-I", "-S", "-c", _KEEP_ALIVE, *image.command),
                    app=self._app,
                    image=image.handle,
                    secrets=[self._sdk.Secret.from_dict({**dict(kind.env), **dict(kind.secrets)})],
                    cpu=(self.config.cpus, self.config.cpus),
                    memory=(megabytes, megabytes),
                    block_network=not kind.network or self.config.network == "none",
                    timeout=LIFETIME_SECONDS,
                    tags=self._tags,
                )
        container = ModalContainer(self._sdk, handle, image)
        await container.wait_ready()
        return container

    async def clean_up(self) -> None:
        """End the sandboxes of this run that are left, those whose start was interrupted included."""
        left = [handle async for handle, _ in _tagged(self._sdk, self._app, self._tags)]
        await _end(self._sdk, left)


async def start_hosted(
    config: SandboxConfig, project: Path, *, run: str, log: Path | None = None
) -> ModalSandboxes:
    """Log in, end what processes that have ended left behind, and be ready to open sandboxes.

    Raises EnvironmentMissing without the package, without credentials, and when Modal refuses them.
    """
    sdk = load_sdk()
    app = await _find_app(sdk)
    await _remove(sdk, app, everything=False)
    return ModalSandboxes(sdk, app, config, project, run=run, log=log)


async def list_hosted() -> list[SandboxRow]:
    """Our sandboxes in the account, those of other processes and machines included, by name."""
    sdk = load_sdk()
    app = await _find_app(sdk)
    rows = [
        SandboxRow(handle.object_id, "", tags.get("rnow-run", ""), "running", "", _orphan(tags))
        async for handle, tags in _tagged(sdk, app, {})
    ]
    return sorted(rows, key=lambda row: row.name)


async def collect_hosted_garbage(*, everything: bool = False) -> list[str]:
    """End the sandboxes whose owner has ended; with `everything` all of the account's that are ours. Their names."""
    sdk = load_sdk()
    return await _remove(sdk, await _find_app(sdk), everything=everything)


async def _find_app(sdk: Any) -> Any:
    with modal_errors(sdk, "logging in to Modal"):
        async with asyncio.timeout(CALL_SECONDS):
            return await sdk.App.lookup.aio(APP, create_if_missing=True)


async def _remove(sdk: Any, app: Any, *, everything: bool) -> list[str]:
    found = [pair async for pair in _tagged(sdk, app, {})]
    ended = [handle for handle, tags in found if everything or _orphan(tags)]
    await _end(sdk, ended)
    return [handle.object_id for handle in ended]


async def _end(sdk: Any, handles: Sequence[Any]) -> None:
    """End sandboxes and what is inside; those that have ended are no error."""
    with modal_errors(sdk, "ending sandboxes at Modal"):
        async with asyncio.timeout(CALL_SECONDS):
            await asyncio.gather(*(handle.terminate.aio() for handle in handles))


async def _tagged(sdk: Any, app: Any, tags: Mapping[str, str]) -> AsyncIterator[tuple[Any, dict[str, str]]]:
    """The running sandboxes of our app with at least these tags, and all of their tags."""
    with modal_errors(sdk, "listing the sandboxes at Modal"):
        async for handle in sdk.Sandbox.list.aio(app_id=app.app_id, tags=dict(tags)):
            yield handle, await handle.get_tags.aio()


def _owner_tags(owner: Owner) -> dict[str, str]:
    """An owner in plain short words: what else a tag may hold is not documented."""
    machine = hashlib.sha256(owner.machine.encode()).hexdigest()[:16]
    return {"rnow-machine": machine, "rnow-pid": str(owner.pid), "rnow-started": owner.started.encode().hex()}


def _orphan(tags: Mapping[str, str]) -> bool:
    """Whether the process that owned it is known to have ended; one of another machine is not known."""
    here = this_process()
    try:
        started = bytes.fromhex(tags["rnow-started"]).decode()
        owner = Owner(here.machine, int(tags["rnow-pid"]), started)
    except (KeyError, ValueError):
        return False
    return tags.get("rnow-machine") == _owner_tags(here)["rnow-machine"] and owner.gone


def _plain(text: str) -> str:
    return "-".join(re.findall(r"[A-Za-z0-9]+", text))[:40]


async def _all(stream: Any) -> str:
    """The text of a stream, of which the start is kept."""
    kept = bytearray()
    async for chunk in stream:
        kept += chunk[: max(0, (1 << 16) - len(kept))]
    return kept.decode(errors="replace")
