"""What a run writes down while it trains: metrics, traces, checkpoints, status, events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rnow_core.models.seams import Learner
from rnow_core.rollout.collect import Collected
from rnow_core.track.aggregate import step_metrics
from rnow_core.track.best import Best, best_of
from rnow_core.track.checkpoints import REPLACEABLE, Checkpoint, Checkpoints
from rnow_core.track.clock import PhaseClock
from rnow_core.track.events import Emit, Event
from rnow_core.track.memory import peak_memory
from rnow_core.track.metrics import MetricsFile, Row, read_metrics
from rnow_core.track.run_folder import RunFolder
from rnow_core.track.sinks import Sink
from rnow_core.track.traces import Pieces, cut_traces, keep, step_traces, write_traces
from rnow_core.train.monitors import ROLLED_BACK, length_ratio, watched
from rnow_core.types import Batch, UpdateResult


@dataclass
class RunRecord:
    """The run folder and everything that follows a run. `pieces` cuts ids into the text of each token.

    `rows` is what monitors and the choice of the best step read of metrics.jsonl.
    """

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
    rows: list[Row] = field(default_factory=list)
    checkpoints: Checkpoints = field(init=False)
    _marked: Best | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.folder.checkpoints)

    def step(
        self,
        step: int,
        collected: Collected,
        batch: Batch,
        update: UpdateResult,
        probed: float | None = None,
        *,
        adv_tau: float = 0.0,
    ) -> dict[str, float]:
        """Write a step's traces and metrics, and tell whoever listens.

        `probed` is the mismatch on replies of the version just published, where the batch itself is older: it is
        then `mismatch_kl`, and the batch's own figure `staleness_kl`.
        """
        self._write_traces(step, collected, batch, update)
        dropped = len(collected.failures), collected.stale
        metrics = step_metrics(
            collected.rollouts, batch, update, self.clock.take(), *dropped, adv_tau=adv_tau
        )
        if probed is not None:
            metrics |= {"staleness_kl": metrics["mismatch_kl"], "mismatch_kl": probed}
        return self.log_step(step, metrics | length_ratio(self.rows, metrics))

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
        self._mark_best()

    def save(self, step: int, learner: Learner, *, replaceable: bool = False) -> None:
        """Make the checkpoint of `step`, after its metrics are on the disk.

        A `replaceable` one is removed when another becomes the best.
        """
        state = {"total_steps": self.total_steps, **({REPLACEABLE: True} if replaceable else {})}
        with self.clock.phase("save"):
            self.metrics.sync()
            checkpoint = self.checkpoints.save(step, learner.save, state)
        self.emit(Event("checkpoint", {"step": step, "path": str(checkpoint.path)}))
        self._mark_best()

    @property
    def best(self) -> Best | None:
        """The best evaluated step so far."""
        return best_of(self.rows)

    def is_best(self, step: int) -> bool:
        """Whether `step` was evaluated, and no step before it is as good."""
        best = self.best
        return best is not None and best.step == step

    def best_checkpoint(self) -> dict[str, Any] | None:
        """Step, `metric`, `value` and path of the best checkpoint; None without one."""
        if self._marked is None:
            return None
        return {**asdict(self._marked), "checkpoint": str(self.checkpoints.load(self._marked.step).path)}

    def rolled_back(self, step: int, to: int) -> None:
        """Write down that behind `step` the weights of the step `to` were loaded."""
        self._log(step, {ROLLED_BACK: float(to)})

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Cut metrics and traces back to a checkpoint: what came behind it is done again.

        Before the first step the evaluations are done again as well: a kill may have left half of them.
        """
        step = checkpoint.step if checkpoint else 0
        self.metrics.truncate_after(step if step > 0 else -1)
        cut_traces(self.folder.rollouts, step)
        self.rows = [watched(row) for row in read_metrics(self.folder.metrics_file)]
        self.current_step = step
        self._mark_best()

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
        row = {"step": step, **metrics}
        self.metrics.append(row)
        self.rows.append(watched(row))
        for sink in self.sinks:
            sink.log(step, metrics)

    def _mark_best(self) -> None:
        """Let folder and status name the best checkpoint, as soon as there is one."""
        best = self.best
        if best is None or best == self._marked:
            return
        if best.step not in {checkpoint.step for checkpoint in self.checkpoints.all()}:
            return
        self.checkpoints.set_best(best.step, self.folder.best)
        self._marked = best
        standing = self.best_checkpoint()
        self.folder.write_status("running", self.current_step, self.total_steps, best=standing)

    def _write_traces(self, step: int, collected: Collected, batch: Batch, update: UpdateResult) -> None:
        kept = keep(len(collected.rollouts), self.keep_rollouts, self.seed, step)
        if kept:
            records = step_traces(step, collected.rollouts, batch, update, kept, self.pieces)
            write_traces(self.folder.rollouts / f"step_{step:06d}.jsonl", records)
