"""Peak memory of this process, in bytes."""

from __future__ import annotations

import resource
import sys
from typing import Any


def peak_memory() -> dict[str, float]:
    """`memory/peak`: the process's largest resident size so far; `memory/peak_gpu`: the most that torch has
    allocated on one GPU so far, present only where torch has used one.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in kilobytes
    return {"memory/peak": float(peak * unit)} | _peak_gpu()


def _peak_gpu() -> dict[str, float]:
    """Asks torch only if something else has imported it: this package must not."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    devices = range(torch.cuda.device_count())
    return {"memory/peak_gpu": float(max(torch.cuda.max_memory_allocated(device) for device in devices))}
