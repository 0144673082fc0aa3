"""Images: found, pulled or built once; then what is inside of them that starting a container must know."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.env.sandbox.context import content_hash, context_files, copy_context
from rnow_core.env.sandbox.engine import Engine, Output
from rnow_core.env.sandbox.filelock import file_lock
from rnow_core.env.sandbox.health import HealthCheck
from rnow_core.env.sandbox.labels import MARK
from rnow_core.errors import RnowError

LOCAL = "local/"
BUILD_SECONDS = 3600.0
PYTHON_LABEL = "rnow.python"
READ_ONLY_LABEL = "rnow.read-only"
TMPFS_LABEL = "rnow.tmpfs"
_NOT_FOUND = (126, 127)
_PROBE = "import sys; print(*sys.version_info[:2])"


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is on this machine. `command`: ENTRYPOINT and CMD as one; `python`: the Python inside;
    `read_only`: it says (label rnow.read-only) that it works without writing outside volumes, the usual temporary
    folders and `tmpfs` (label rnow.tmpfs, separated by commas).
    """

    name: str
    id: str
    command: tuple[str, ...]
    python: str
    health: HealthCheck | None
    read_only: bool
    tmpfs: tuple[str, ...]


class Images:
    """The images of a project, each prepared once."""

    def __init__(self, engine: Engine, project: Path) -> None:
        self._engine = engine
        self._project = project
        self._prepared: dict[str, asyncio.Task[Image]] = {}

    async def get(self, name: str) -> Image:
        """The image of this name (`local/NAME` or a registry's), built or pulled if need be.

        RnowError when it cannot be had or has no Python; a later call tries again.
        """
        task = self._prepared.get(name)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._prepared[name] = asyncio.create_task(self._prepare(name))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop what is still being prepared."""
        tasks = list(self._prepared.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(self, name: str) -> Image:
        if name.startswith(LOCAL):
            found = await build(self._engine, self._project, name)
        else:
            found = await _pull(self._engine, name)
        return await _examine(self._engine, name, found)


async def build(engine: Engine, project: Path, name: str) -> dict[str, Any]:
    """Build `Dockerfile.NAME` unless an image of the same content is there; what `inspect` says of it.

    Processes that want the same image wait for the first one's build. RnowError with the end of the build's output.
    """
    short = name.removeprefix(LOCAL)
    dockerfile = project / f"Dockerfile.{short}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", short) or not dockerfile.is_file():
        hint = "add it to the project, or name an image of a registry"
        raise RnowError(f"`{name}` needs Dockerfile.{short}, which is not in {project}", hint)
    files = context_files(project, dockerfile)
    number = content_hash(project, dockerfile, files)
    tag = f"rnow-local/{short.lower()}:{number}"
    async with file_lock(f"build-{number}"):
        found = await engine.inspect("image", tag)
        if found:
            return found[0]
        with tempfile.TemporaryDirectory(prefix="rnow-build-") as folder:
            copy_context(project, files, Path(folder))
            # The OCI format would drop HEALTHCHECK without a word.
            form = ("--format", "docker") if engine.name == "podman" else ()
            words = (
                "build",
                *form,
                "--file",
                str(dockerfile),
                "--tag",
                tag,
                "--label",
                f"{MARK}=image",
                folder,
            )
            output = await engine.call(*words, seconds=BUILD_SECONDS)
        if output.code:
            raise RnowError(f"building {dockerfile.name} failed", _end(output))
        return (await engine.inspect("image", tag))[0]


async def _pull(engine: Engine, name: str) -> dict[str, Any]:
    if not re.fullmatch(r"[A-Za-z0-9][\w./:@-]*", name):
        raise RnowError(
            f"`{name}` is not the name of an image", "write it like python:3.12-slim or local/NAME"
        )
    found = await engine.inspect("image", name)
    if found:
        return found[0]
    full = _full_name(name)
    output = await engine.call("pull", "--quiet", full, seconds=BUILD_SECONDS)
    if output.code:
        hint = f"check the name, log in with `{engine.name} login`, or build it here: local/NAME and Dockerfile.NAME"
        raise RnowError(f"the image {name} cannot be pulled: {output.reason}", hint)
    return (await engine.inspect("image", full))[0]


def _full_name(name: str) -> str:
    """Docker's reading of a short name, which podman leaves to its configuration."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


async def _examine(engine: Engine, name: str, found: Mapping[str, Any]) -> Image:
    config = found.get("Config") or {}
    labels = config.get("Labels") or {}
    python = await _find_python(engine, name, found["Id"], labels.get(PYTHON_LABEL))
    return Image(
        name=name,
        id=found["Id"],
        command=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
        python=python,
        health=HealthCheck.parse(config.get("Healthcheck") or found.get("Healthcheck") or {}),
        read_only=str(labels.get(READ_ONLY_LABEL, "")).lower() in ("1", "true", "yes"),
        tmpfs=tuple(path for path in str(labels.get(TMPFS_LABEL, "")).split(",") if path.startswith("/")),
    )


async def _find_python(engine: Engine, name: str, image_id: str, named: str | None) -> str:
    """The Python of an image, found by running it."""
    for python in (named,) if named else ("python3", "python"):
        words = ("--rm", "--pull=never", "--network", "none", "--cap-drop", "ALL", "--read-only")
        labels = ("--label", f"{MARK}=probe", "--no-healthcheck", *engine.run_words)
        output = await engine.call("run", *words, *labels, "--entrypoint", python, image_id, "-c", _PROBE)
        if output.code == 0:
            version = output.out.split()
            if [int(word) for word in version] >= [3, 8]:
                return python
            message = f"the image {name} has Python {'.'.join(version)}"
            raise RnowError(message, "tools run inside the image and need Python 3.8 or newer there")
        if output.code not in _NOT_FOUND:
            raise RnowError(f"a container of the image {name} cannot be started", output.reason)
    hint = f"tools run with the image's own Python, 3.8 or newer: install it, or name it: LABEL {PYTHON_LABEL}=/path"
    raise RnowError(f"the image {name} has no Python", hint)


def _end(output: Output) -> str:
    lines = (output.out + output.err).splitlines()
    return "\n".join(lines[-15:])
