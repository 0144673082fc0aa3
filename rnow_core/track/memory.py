"""Peak memory of this process, in bytes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any


def peak_memory() -> dict[str, float]:
    """`memory/peak`: the process's largest resident size so far; `memory/peak_gpu`: the most that torch has
    allocated on one GPU so far, present only where torch has used one.
    """
    return {"memory/peak": float(_peak_resident())} | _peak_gpu()


def _peak_resident() -> int:
    """On Linux from /proc: getrusage there still knows the peak of the process that started this one."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes, others in kilobytes


def _peak_gpu() -> dict[str, float]:
    """Asks torch only if something else has imported it: this package must not."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    devices = range(torch.cuda.device_count())
    return {"memory/peak_gpu": float(max(torch.cuda.max_memory_allocated(device) for device in devices))}
