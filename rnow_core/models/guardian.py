"""Runs one command and sees to it that nothing of it outlives the process that asked for it.

    python guardian.py PARENT_PID GRACE_SECONDS FOLDER COMMAND...

The command runs in a session of its own (a Ctrl-C at the terminal is the run's business, not its servers'); its
process id is written to stdout as one line. The guardian ends everything, and removes FOLDER, when its stdin closes
or its parent is gone, which also happens when the parent was killed with SIGKILL; when the command ends by itself,
what it left running is ended too. Ending means SIGTERM to the command (to its children once it is gone),
GRACE_SECONDS, then SIGKILL to all. On Linux the guardian adopts orphans below it, so that children which changed
their process group are found as well. Should the guardian itself be killed (`pkill -9 -f rnow` matches it and its
parent), a shell that waits for just that kills the command's process group.

It exits as the command did (128 + signal number for a signal). Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

POLL_SECONDS = 0.2
KILL_SECONDS = 10.0
_HAS_PROC = Path("/proc/self/stat").exists()
_PR_SET_CHILD_SUBREAPER = 36
# `read` returns when the guardian, the only holder of the pipe's other end, is gone.
_SECOND_GUARDIAN = 'read -r line; kill -s KILL -- "-$1"'


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def parents() -> dict[int, int]:
    """Parent process id of every process that is not a zombie; empty where there is no /proc."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may contain anything, parentheses included.
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(stat.parent.name)] = int(parent)
    return found


def descendants(root: int) -> set[int]:
    """Ids of all living processes below `root`."""
    parent_of = parents()
    below = {root}
    size = 0
    while size != len(below):
        size = len(below)
        below |= {child for child, parent in parent_of.items() if parent in below}
    return below - {root}


class Guardian:
    """One command and everything that it starts."""

    def __init__(self, command: list[str], *, parent: int, grace: float) -> None:
        self._parent, self._grace = parent, grace
        self._stop_asked = False
        _adopt_orphans()
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
        )
        self.pid = self._process.pid
        self._second = subprocess.Popen(
            ["sh", "-c", _SECOND_GUARDIAN, "sh", str(self.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._status: int | None = None

    def ask_to_stop(self, *_signal: object) -> None:
        """Signal handler: end everything at the next look."""
        self._stop_asked = True

    def watch(self) -> bool:
        """Wait until the command ended (False) or has to be ended (True)."""
        while not self._stop_asked and os.getppid() == self._parent:
            readable, _, _ = select.select([0], [], [], POLL_SECONDS)
            if readable and not os.read(0, 4096):
                return True
            self._reap()
            if self._status is not None:
                return False
        return True

    def end(self) -> int:
        """End what still runs; returns the exit status for the guardian."""
        self._reap()
        if self._status is None:
            # Its children are its own to end; a signal from us would only disturb that.
            self._process.send_signal(signal.SIGTERM)
        else:
            self._signal_all(signal.SIGTERM)
        self._wait(lambda: not self._left(), self._grace)
        self._wait(self._kill_left, KILL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._second.pid, signal.SIGKILL)
        if self._status is None:
            return 128 + signal.SIGKILL
        code = os.waitstatus_to_exitcode(self._status)
        return code if code >= 0 else 128 - code

    def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _kill_left(self) -> bool:
        # Called until it is True: a process may start another between the look and the signal.
        if not self._left():
            return True
        self._signal_all(signal.SIGKILL)
        return False

    def _left(self) -> bool:
        self._reap()
        if _HAS_PROC:
            return bool(self._below())
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _below(self) -> set[int]:
        return descendants(os.getpid()) - {self._second.pid}

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._below():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self._status = status
                    self._process.returncode = os.waitstatus_to_exitcode(status)


def main(arguments: list[str]) -> int:
    """Guard one command until it ends or must end."""
    parent, grace, folder = int(arguments[0]), float(arguments[1]), arguments[2]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    guardian = Guardian(arguments[3:], parent=parent, grace=grace)
    signal.signal(signal.SIGTERM, guardian.ask_to_stop)
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{guardian.pid}\n".encode())
    asked = guardian.watch()
    code = guardian.end()
    if asked:
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
