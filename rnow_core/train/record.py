"""What a run writes down while it trains: metrics, traces, checkpoints, status, events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rnow_core.models.seams import Learner
from rnow_core.rollout.collect import Collected
from rnow_core.track.aggregate import step_metrics
from rnow_core.track.checkpoints import Checkpoint, Checkpoints
from rnow_core.track.clock import PhaseClock
from rnow_core.track.events import Emit, Event
from rnow_core.track.memory import peak_memory
from rnow_core.track.metrics import MetricsFile, Row, read_metrics
from rnow_core.track.run_folder import RunFolder
from rnow_core.track.sinks import Sink
from rnow_core.track.traces import Pieces, cut_traces, keep, step_traces, write_traces
from rnow_core.types import Batch, UpdateResult


@dataclass
class RunRecord:
    """The run folder and everything that follows a run. `pieces` cuts ids into the text of each token."""

    folder: RunFolder
    metrics: MetricsFile
    total_steps: int
    keep_rollouts: int
    seed: int
    clock: PhaseClock
    emit: Emit
    pieces: Pieces
    sinks: tuple[Sink, ...] = ()
    current_step: int = 0
    checkpoints: Checkpoints = field(init=False)

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.folder.checkpoints)

    def step(
        self,
        step: int,
        collected: Collected,
        batch: Batch,
        update: UpdateResult,
        probed: float | None = None,
    ) -> dict[str, float]:
        """Write a step's traces and metrics, and tell whoever listens.

        `probed` is the mismatch on replies of the version just published, where the batch itself is older: it is
        then `mismatch_kl`, and the batch's own figure `staleness_kl`.
        """
        self._write_traces(step, collected, batch, update)
        dropped = len(collected.failures), collected.stale
        metrics = step_metrics(collected.rollouts, batch, update, self.clock.take(), *dropped)
        if probed is not None:
            metrics |= {"staleness_kl": metrics["mismatch_kl"], "mismatch_kl": probed}
        return self.log_step(step, metrics)

    def log_step(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Write a step's metrics, with the memory's peak, and tell whoever listens; returns them."""
        metrics = {**metrics, **peak_memory()}
        self.current_step = step
        self._log(step, metrics)
        self.folder.write_status("running", step, self.total_steps, metrics)
        self.emit(Event("step", {"step": step, "total_steps": self.total_steps, "metrics": metrics}))
        return metrics

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the figures of an evaluation after `step` (0: before training)."""
        row = {**metrics, "time/eval": self.clock.take()["time/step"]}
        self._log(step, row)
        self.emit(Event("eval", {"step": step, "metrics": row}))

    def save(self, step: int, learner: Learner) -> None:
        """Make the checkpoint of `step`, after its metrics are on the disk."""
        with self.clock.phase("save"):
            self.metrics.sync()
            checkpoint = self.checkpoints.save(step, learner.save, {"total_steps": self.total_steps})
        self.emit(Event("checkpoint", {"step": step, "path": str(checkpoint.path)}))

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Cut metrics and traces back to a checkpoint: what came behind it is done again.

        Before the first step the evaluations are done again as well: a kill may have left half of them.
        """
        step = checkpoint.step if checkpoint else 0
        self.metrics.truncate_after(step if step > 0 else -1)
        cut_traces(self.folder.rollouts, step)
        self.current_step = step

    def warn(self, message: str, hint: str = "") -> None:
        """Tell the user something that does not stop the run."""
        self.emit(Event("warning", {"message": message, "hint": hint}))

    def evaluations(self, step: int) -> Row:
        """Every evaluation figure that was written for `step`, in one mapping."""
        rows = (row for row in read_metrics(self.folder.metrics_file) if row.get("step") == step)
        return {name: value for row in rows for name, value in row.items() if name.startswith("eval/")}

    def history(self, name: str) -> list[float]:
        """A metric of every step that has it, in order."""
        rows = read_metrics(self.folder.metrics_file)
        return [float(row[name]) for row in rows if row.get(name) is not None]

    def seconds(self) -> float:
        """Seconds that all written steps and evaluations took, over every attempt that counts."""
        rows = read_metrics(self.folder.metrics_file)
        return sum(float(row.get(name) or 0.0) for row in rows for name in ("time/step", "time/eval"))

    def close(self) -> None:
        """Close the files and sinks and let another process have the run."""
        for sink in self.sinks:
            sink.finish()
        self.metrics.close()
        self.folder.close()

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics.append({"step": step, **metrics})
        for sink in self.sinks:
            sink.log(step, metrics)

    def _write_traces(self, step: int, collected: Collected, batch: Batch, update: UpdateResult) -> None:
        kept = keep(len(collected.rollouts), self.keep_rollouts, self.seed, step)
        if kept:
            records = step_traces(step, collected.rollouts, batch, update, kept, self.pieces)
            write_traces(self.folder.rollouts / f"step_{step:06d}.jsonl", records)
