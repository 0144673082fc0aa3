"""Where a step's time goes: generation, teacher forward, update, and everything else.

Runs the real loop on two projects made on the spot: one of the quickstart's size and a larger tiny one. Everything
that computes (sampler, teacher, learner with its optimizer) goes through the run's device thread, so the share of a
step in which that thread is idle is what rendering, records and the event loop cost.
Prints one JSON line. Usage: python benchmarks/phases.py [--steps 4]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Size, hardware, make_project

from rnow_core.jobs.train import train
from rnow_core.models.device import DeviceThread
from rnow_core.stop import StopSignal
from rnow_core.track.events import Event

WARM_UP = 2
SIZES = {
    "demo": (Size((96, 2), (128, 3), 64, 64, 4, 12, 10), 0.15),
    "larger": (Size((256, 4), (384, 6), 2048, 32, 4, 64, 64), 0.05),
}
"""Name -> shape, and the largest share of a step that may pass outside generation, scoring and update."""


class Busy:
    """Counts the seconds that the device thread works."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._run = DeviceThread.run

    def install(self) -> None:
        """Count from now on, in every DeviceThread."""
        busy, run = self, self._run

        async def counted(thread: DeviceThread, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return await run(thread, busy._timed(work), *args, **kwargs)

        DeviceThread.run = counted  # type: ignore[method-assign,assignment]

    def _timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def measure(name: str, steps: int, busy: Busy) -> dict[str, Any]:
    """Run one project; medians over its steps without the first ones."""
    size, limit = SIZES[name]
    seen: list[tuple[dict[str, float], float]] = []

    def emit(event: Event) -> None:
        if event.kind == "step":
            seen.append((dict(event.fields["metrics"]), busy.seconds))

    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder), size, steps + WARM_UP)
        train(project, overrides=[], name=None, resume=False, emit=emit, stop=StopSignal())
    rows = [
        {**now, "busy": after - before}
        for (_, before), (now, after) in zip(seen[WARM_UP - 1 :], seen[WARM_UP:], strict=False)
    ]
    shares = [1 - row["busy"] / row["time/step"] for row in rows]
    return {
        "tokens_per_second": round(statistics.median(row["tokens/per_second"] for row in rows), 1),
        "step_seconds": round(statistics.median(row["time/step"] for row in rows), 4),
        "rollout_seconds": round(statistics.median(row["time/rollout"] for row in rows), 4),
        "score_seconds": round(statistics.median(row["time/score"] for row in rows), 4),
        "train_seconds": round(statistics.median(row["time/train"] for row in rows), 4),
        "share_outside": round(statistics.median(shares), 4),
        "share_outside_range": [round(min(shares), 4), round(max(shares), 4)],
        "limit": limit,
        "within_limit": statistics.median(shares) <= limit,
    }


def main() -> None:
    """Measure both projects and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    steps = parser.parse_args().steps
    busy = Busy()
    busy.install()
    results = {name: measure(name, steps, busy) for name in SIZES}
    print(json.dumps({"benchmark": "phases", **results, **hardware()}))


if __name__ == "__main__":
    main()
