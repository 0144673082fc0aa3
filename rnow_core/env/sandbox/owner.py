"""Who owns a container: a process, told by machine, id and start time, so that leftovers can be recognised."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OWN_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process. `machine` also tells apart the process tables of containers that share one engine; `started` is
    an opaque word, empty for a process that does not run.
    """

    machine: str
    pid: int
    started: str

    @property
    def label(self) -> str:
        """The owner in one word; see `parse`."""
        return f"{self.machine}/{self.pid}/{self.started}"

    @classmethod
    def parse(cls, label: str) -> Owner | None:
        """The owner that a label names; None when the label is none of ours."""
        machine, _, rest = label.partition("/")
        pid, _, started = rest.partition("/")
        return cls(machine, int(pid), started) if started and pid.isdigit() else None

    @property
    def gone(self) -> bool:
        """Whether the process is known to have ended. One of another machine is not known."""
        return self.machine == _machine() and self.started != _started(self.pid)


def this_process() -> Owner:
    """The process that runs this."""
    return Owner(_machine(), os.getpid(), _started(os.getpid()))


def _machine() -> str:
    namespace = str(_OWN_NAMESPACE.readlink()) if _OWN_NAMESPACE.is_symlink() else ""
    return f"{platform.node()}:{''.join(letter for letter in namespace if letter.isdigit())}"


def _started(pid: int) -> str:
    """When a process was started, as a word without spaces; "" when there is no such process."""
    if not _BOOT_ID.exists():
        told = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return "-".join(told.stdout.split())
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie has ended, whoever has not yet asked for its exit code.
    return "" if fields[0] == "Z" else f"{_BOOT_ID.read_text().strip()[:8]}-{fields[19]}"
