"""One writer a run: a lock on a file that the kernel gives back when the process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

from rnow_core.errors import WouldOverwrite
from rnow_core.track.diskerrors import disk_errors


class FileLock:
    """An exclusive flock on `path`, held until `release` or the process ends. The file holds the pid."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            WouldOverwrite: another process holds it; the message names its pid.
        """
        self.path = path
        with disk_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take()
        except BaseException:
            os.close(self._descriptor)
            raise
        _held.add(self)

    def _take(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._descriptor, 32, 0).decode().strip() or "unknown"
            raise WouldOverwrite(
                f"{self.path.parent}: another process (pid {owner}) is writing this run",
                f"wait until it ends, or stop it with `kill -INT {owner}`",
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self in _held:
            self._forget()

    def _forget(self) -> None:
        _held.discard(self)
        os.close(self._descriptor)


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked worker must not keep its parent's lock alive when the parent is killed."""
    for lock in list(_held):
        lock._forget()


os.register_at_fork(after_in_child=_close_in_child)
