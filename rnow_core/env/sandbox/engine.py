"""The docker or podman command line: which one, and one call of it.

Machines that need more words (`--storage-driver vfs`, `--context box`) say so in two environment variables:
RNOW_SANDBOX_ARGS goes before every subcommand, RNOW_SANDBOX_RUN_ARGS into every `run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rnow_core.errors import EnvironmentMissing, RnowError, RolloutFailed

EngineName = Literal["docker", "podman"]
ENGINES: tuple[EngineName, ...] = ("docker", "podman")
PROBE_SECONDS = 30.0
CALL_SECONDS = 120.0
_OUTPUT_BYTES = 1 << 20
_REMOVE_PAUSES = (0.1, 0.5, 2.0)


class EngineFailed(RolloutFailed):
    """The container program refused or did not answer: what it was asked for cannot be had now."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a call ended with. `out` and `err` have at most a mebibyte each."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The last lines of what it complained about."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return "\n".join(lines[-5:]) or f"exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Engine:
    """A container program that answered. `info` is what `info` said."""

    name: EngineName
    words: tuple[str, ...]
    run_words: tuple[str, ...]
    info: Mapping[str, Any]

    def command(self, *arguments: str) -> list[str]:
        """The whole command line of a subcommand."""
        return [*self.words, *arguments]

    async def call(
        self, *arguments: str, values: Mapping[str, str] | None = None, seconds: float = CALL_SECONDS
    ) -> Output:
        """Run a subcommand, whatever its exit code. `values` are added to the program's own environment, so that
        `--env NAME` can pass them on without showing them to the machine's other users.

        EngineFailed when it takes longer than `seconds`.
        """
        return await _call(self.command(*arguments), {**os.environ, **(values or {})}, seconds)

    async def require(
        self, *arguments: str, values: Mapping[str, str] | None = None, seconds: float = CALL_SECONDS
    ) -> str:
        """The output of a subcommand that must succeed; EngineFailed with its complaint when it does not."""
        output = await self.call(*arguments, values=values, seconds=seconds)
        if output.code:
            raise EngineFailed(f"{self.name} {arguments[0]} failed: {output.reason}")
        return output.out

    async def inspect(self, *words: str) -> list[dict[str, Any]]:
        """What `inspect` says of containers (or, after the word `image`, of images); [] when there are none."""
        arguments = ("image", "inspect", *words[1:]) if words[0] == "image" else ("inspect", *words)
        output = await self.call(*arguments)
        try:
            found = json.loads(output.out or "[]")
        except ValueError:
            raise EngineFailed(f"{self.name} inspect failed: {output.reason}") from None
        return list(found)

    async def remove(self, *containers: str) -> None:
        """Kill and remove containers and their unnamed volumes; those that are gone already are no error.

        EngineFailed when one is still there.
        """
        # Without --ignore podman keeps all when one of them is gone, and reports success.
        at_once = ("--ignore", "--time", "0") if self.name == "podman" else ()
        for pause in _REMOVE_PAUSES if containers else ():
            output = await self.call("rm", "--force", "--volumes", *at_once, *containers)
            if output.code == 0 or all(
                "no such container" in line.lower() for line in output.err.splitlines()
            ):
                return
            await asyncio.sleep(pause)
        if containers and await self.inspect(*containers):
            raise EngineFailed(f"{self.name} rm failed: {output.reason}")


async def find_engine(choice: Literal["auto", "docker", "podman", "modal", "none"] = "auto") -> Engine:
    """The chosen container program; for `auto` the first that answers. EnvironmentMissing with the reasons."""
    if choice == "modal":
        message = "sandbox.engine is modal, so there are no containers on this machine"
        raise EnvironmentMissing(message, "set it to auto for docker or podman")
    if choice == "none":
        raise EnvironmentMissing("sandbox.engine is none, so there are no containers", "set it to auto")
    problems = []
    for name in ENGINES if choice == "auto" else (choice,):
        found = await _probe(name)
        if isinstance(found, Engine):
            return found
        problems.append(f"{name}: {found}")
    hint = "install docker or podman, start its service, and let your user use it; `rnow doctor` says more"
    raise EnvironmentMissing("tools need containers, and none can be had: " + "; ".join(problems), hint)


async def _probe(name: EngineName) -> Engine | str:
    """The engine, or why there is none."""
    program = shutil.which(name)
    if program is None:
        return "not installed"
    words = (program, *_words_of("RNOW_SANDBOX_ARGS"))
    form = "{{json .}}" if name == "docker" else "json"
    try:
        output = await _call([*words, "info", "--format", form], os.environ, PROBE_SECONDS)
        info = json.loads(output.out) if output.code == 0 else {}
    except (RnowError, ValueError) as error:
        return str(error)
    if output.code or not isinstance(info, dict) or info.get("ServerErrors"):
        return output.reason
    # `docker` may be podman under another name, which wants podman's words.
    real: EngineName = "podman" if "host" in info else "docker"
    return Engine(real, words, _words_of("RNOW_SANDBOX_RUN_ARGS"), info)


def _words_of(variable: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(os.environ.get(variable, "")))
    except ValueError as error:
        raise RnowError(f"{variable} cannot be split into words: {error}", "check its quotes") from None


async def _call(command: list[str], environment: Mapping[str, str], seconds: float) -> Output:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True
        )
    except OSError as error:
        raise EngineFailed(f"{command[0]} cannot be started: {error}") from None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(seconds):
            out, err = await asyncio.gather(_read(process.stdout), _read(process.stderr))
            code = await process.wait()
    except TimeoutError:
        raise EngineFailed(f"`{_shown(command)}` took longer than {seconds:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
    return Output(code, out, err)


async def _read(stream: asyncio.StreamReader) -> str:
    """The start of a stream; the rest is read and dropped, so that its writer is not held up."""
    kept = bytearray()
    while chunk := await stream.read(65536):
        kept += chunk[: _OUTPUT_BYTES - len(kept)]
    return kept.decode(errors="replace")


def _shown(command: list[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:4]]) + (" ..." if len(command) > 4 else "")
