"""A process that cannot outlive this one: the parent's side of `guardian`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rnow_core.errors import EnvironmentMissing, RunFailed
from rnow_core.models import guardian

# A Unix socket's path has 108 bytes on Linux and 104 on macOS, the final zero included. vLLM's own sockets are named
# by a UUID.
SOCKET_PATH_BYTES = 103
_UUID_BYTES = 37
GRACE_SECONDS = 10.0


def private_folder() -> Path:
    """A path, not yet made, short enough for the sockets in it."""
    name = f"rnow-{secrets.token_hex(6)}"
    for parent in dict.fromkeys([tempfile.gettempdir(), "/tmp"]):
        if (
            len(os.fsencode(parent)) + len(name) + 1 + _UUID_BYTES <= SOCKET_PATH_BYTES
            and Path(parent).is_dir()
        ):
            return Path(parent) / name
    raise EnvironmentMissing(
        f"the temporary folder {tempfile.gettempdir()} has too long a path for a Unix socket",
        "set TMPDIR to a folder with a path of at most 40 characters",
    )


class GuardedProcess:
    """One command under a guardian: ended with everything it started, however this process ends."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log_file: Path,
        folder: Path,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """Start it. Its output is appended to `log_file`; `folder` is made (mode 0700) if need be.

        `grace`: seconds between SIGTERM and SIGKILL.
        """
        self._folder, self._grace = folder, grace
        _make_private(folder)
        # By path and isolated (-I): nothing of the project's folder or environment can stand in its way.
        words = [sys.executable, "-I", guardian.__file__, str(os.getpid()), str(grace), str(folder)]
        with log_file.open("ab") as log:
            self._guardian = subprocess.Popen(
                [*words, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(environment),
                start_new_session=True,
            )
        assert self._guardian.stdout is not None
        line = self._guardian.stdout.readline()
        self.pid = int(line) if line.strip() else None
        if self.pid is None:
            self._release()
            raise RunFailed(f"{command[0]} could not be started; see {log_file}")

    @property
    def alive(self) -> bool:
        """Whether the command, or anything it started, still runs."""
        return self._guardian.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The command's exit code, None while it runs; 128 + n after signal n, -n when the guardian was killed."""
        return self._guardian.poll()

    async def stop(self) -> None:
        """SIGTERM, `grace` seconds, SIGKILL, for everything the command started; its folder is removed."""
        assert self._guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guardian.stdin.close()
        deadline = time.monotonic() + self._grace + guardian.KILL_SECONDS + 5
        while self.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self._release()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _release(self) -> None:
        """Kill what a dead or stuck guardian may have left, and close the pipes."""
        if self._guardian.poll() is None:
            self._guardian.kill()
        if self._guardian.wait() < 0 and self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        for pipe in (self._guardian.stdin, self._guardian.stdout):
            if pipe is not None:
                pipe.close()


def _make_private(folder: Path) -> None:
    """Make the folder; one that is already there must be this user's and closed to others."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        status = folder.lstat()
        if (
            not folder.is_dir()
            or folder.is_symlink()
            or status.st_uid != os.getuid()
            or status.st_mode & 0o077
        ):
            raise EnvironmentMissing(
                f"{folder} should be a folder of this user that nobody else can open, and is not",
                "remove it, or set TMPDIR to a private folder",
            ) from None
