"""Several ways to compute one thing, timed in turns, and the peak memory of each in a process of its own."""

from __future__ import annotations

import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def milliseconds(
    ways: Mapping[str, Callable[[], float]], repeats: int, warm_up: int
) -> dict[str, dict[str, object]]:
    """Median and quartiles of each way's seconds, in ms; `warm_up` rounds come first and do not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(repeats + warm_up):
        for name, way in ways.items():
            value = way()
            if round_number >= warm_up:
                taken[name].append(value)
    return {
        name: {
            "median_ms": round(statistics.median(values) * 1e3, 3),
            "quartiles_ms": [round(q * 1e3, 3) for q in statistics.quantiles(values, n=4)[::2]],
        }
        for name, values in taken.items()
    }


def peak_in_own_process(script: str, name: str, vocabulary: int) -> float:
    """MiB that `script --peak-of NAME VOCABULARY` prints."""
    command = [sys.executable, script, "--peak-of", name, str(vocabulary)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_mib() -> float:
    """Highest resident size of this process so far, in MiB.

    On Linux not ru_maxrss: that one starts at the size of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
