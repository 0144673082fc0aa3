"""The process above a local runner: whatever ends, nothing that a tool started stays behind.

Python 3.8, standard library only. On Linux it adopts what its descendants leave behind, daemons included, and
learns of the host's end from the kernel; elsewhere it ends the runner's process group.
"""

# Without pathlib: importing it takes as long as the rest of the runner.
# ruff: noqa: PTH112, PTH123, PTH208
from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def guard(memory: int | None) -> None:
    """Fork: returns in the child, which becomes the runner. The parent ends with it, with exit code 128 + n
    after signal n. memory: bytes that the runner may allocate, None = no limit.
    """
    host = os.getppid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    above = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    runner = os.fork()
    if runner:
        _watch(runner, host)
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != above:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    _limit(memory)


def _watch(runner: int, host: int) -> None:
    def stop(*_: Any) -> None:
        _end_all(runner)
        os._exit(128 + signal.SIGKILL)

    signal.signal(signal.SIGTERM, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    if os.getppid() != host:
        stop()
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == runner:
            break
    _end_all(runner)
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def _end_all(runner: int) -> None:
    """Kill the runner's group, then every process that falls to us, until there is none."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.killpg(runner, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in _children():
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> list[int]:
    me, found = os.getpid(), []
    if not os.path.isdir("/proc/self"):
        return []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as stat:
                    # The name of a program, in parentheses, may hold anything.
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
                if parent == me:
                    found.append(int(name))
    return found


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _limit(memory: int | None) -> None:
    """Bound what the runner may allocate; where memory runs out all the same, it is the first to go."""
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
