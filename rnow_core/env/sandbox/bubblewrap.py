"""Sandboxes without an image: this machine's own Python behind bubblewrap, for sandboxed tools that are pure Python.

Every namespace is new: no network, no processes of others, no files but the system's programs and libraries and the
Python that runs rnow, all read-only. Home, the working folder and /tmp are empty, in memory and bounded. The runner
has a limit of memory; processes are not counted, since that needs a control group of its own, but all of them end
with the sandbox.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.runner.bundle import python_command
from rnow_core.env.runner_process import RunnerProcess
from rnow_core.env.sandbox.recipe import memory_bytes
from rnow_core.env.tool_types import SandboxSpec
from rnow_core.errors import EnvironmentMissing, RolloutFailed

HOME = "/home/sandbox"
TOOLS_FILE = "tools.py"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime", "/etc/ssl")
_SMALL = 64 << 20


class BubblewrapSandbox:
    """A runner behind bubblewrap: its namespaces, files included, last as long as it does."""

    def __init__(self, spec: SandboxSpec, config: SandboxConfig, log: Path | None) -> None:
        self._spec, self._config, self._log = spec, config, log
        self._runner: RunnerProcess | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    async def runner(self) -> RunnerProcess:
        """The runner inside with tools.py loaded; a fresh one, without files, when the last was killed."""
        async with self._lock:
            if self._closed:
                raise RolloutFailed("the sandbox is closed")
            if self._runner is None or not self._runner.alive:
                self._runner = await self._start()
            return self._runner

    async def close(self) -> None:
        """End everything inside."""
        self._closed = True
        if self._runner is not None:
            await self._runner.kill()

    async def _start(self) -> RunnerProcess:
        memory = memory_bytes(self._config.memory)
        runner = RunnerProcess(
            [*bubblewrap_words(memory // 2), *python_command(sys.executable)],
            environment=environment(self._spec.env, self._spec.secrets),
            cwd=Path("/"),
            log=self._log,
            memory=memory,
            secrets=list(self._spec.secrets.values()),
        )
        try:
            await runner.start()
            if TOOLS_FILE in self._spec.files:
                await runner.load(self._spec.files, TOOLS_FILE)
        except BaseException:
            await asyncio.shield(runner.kill())
            raise
        return runner


class BubblewrapSandboxes:
    """The `Sandboxes` of rows without an image. `log`: where the output of tools is appended."""

    def __init__(self, config: SandboxConfig, *, log: Path | None = None) -> None:
        self._config, self._log = config, log

    async def open(self, spec: SandboxSpec) -> BubblewrapSandbox:
        """A fresh sandbox, its runner started. EnvironmentMissing without bubblewrap, and when it needs a network."""
        if spec.network:
            hint = "give the row `docker`, an image, or the tool `@tool(sandbox=True, network=False)`"
            raise EnvironmentMissing("a sandbox without an image has no network", hint)
        require_bubblewrap()
        sandbox = BubblewrapSandbox(spec, self._config, self._log)
        await sandbox.runner()
        return sandbox


def require_bubblewrap() -> str:
    """The path of bwrap; EnvironmentMissing when it is not installed."""
    found = shutil.which("bwrap")
    if found is None:
        hint = "install bubblewrap (Linux), or give the rows `docker`, an image with Python"
        raise EnvironmentMissing("sandboxed tools of rows without an image need bubblewrap", hint)
    return found


def bubblewrap_words(bytes_of_files: int) -> list[str]:
    """Bwrap and its arguments, up to the command that runs inside. bytes_of_files: room in home and in /tmp."""
    words = [
        require_bubblewrap(),
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--hostname",
        "sandbox",
    ]
    words += ["--uid", "1000", "--gid", "1000", "--proc", "/proc", "--dev", "/dev"]
    for path, room in (("/dev/shm", _SMALL), ("/tmp", bytes_of_files), (HOME, bytes_of_files)):
        words += ["--size", str(room), "--tmpfs", path]
    words += [word for arguments in _mounts() for word in arguments]
    return [*words, "--remount-ro", "/", "--chdir", HOME, "--"]


def environment(env: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
    """The variables inside: what programs need, the row's and the named secrets."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOME": HOME, "TMPDIR": "/tmp", "LANG": "C.UTF-8", **env, **secrets}


def _mounts() -> Iterator[tuple[str, ...]]:
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            yield ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield ("--ro-bind", str(path), str(path))
    for name in _SETTINGS:
        yield ("--ro-bind-try", name, name)
    for prefix in dict.fromkeys((sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix)):
        if not prefix.startswith("/usr"):
            yield ("--ro-bind", prefix, prefix)
