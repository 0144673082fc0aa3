"""The learner on this machine: a transformers model, its adapter or all its weights, and the optimizer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from rnow_core.errors import RunFailed
from rnow_core.models.adapter import copy_tensors, restore_adapter, write_adapter
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.device import DeviceThread, memory_errors
from rnow_core.models.folder import load_model, save_model
from rnow_core.models.microbatch import token_budget
from rnow_core.models.optimizer import Optimizer, OptimizerSettings
from rnow_core.models.scoring import MEMORY_HINT, TokenLogprobs, score
from rnow_core.models.training_pass import COLUMNS, Objective, PassResult, prepare, run_pass
from rnow_core.types import AdapterVersion, Batch, ScoreRequest, UpdateResult

KEPT_VERSIONS = 3
"""Published folders that stay: the one in use, the one before it, and one to spare."""


class HFLearner:
    """Owns the student's weights; everything that computes goes through the device thread.

    `token_logprobs` and `objective` are the head and the loss of algo/, handed in so that this package does
    not depend on which one a run uses.
    """

    def __init__(
        self,
        lm: CausalLM,
        device: DeviceThread,
        *,
        objective: Objective,
        token_logprobs: TokenLogprobs,
        settings: OptimizerSettings,
        micro_batch_tokens: int | None = None,
    ) -> None:
        self._lm = lm
        self._device = device
        self._objective = objective
        self._token_logprobs = token_logprobs
        self._settings = settings
        self._budget = token_budget(micro_batch_tokens, lm.device.type)
        self._optimizer = Optimizer(lm.trainable_parameters(), settings)
        self._step = 0

    def update(self, batch: Batch, step: int) -> UpdateResult:
        """`updates_per_batch` optimizer steps on the batch, each over all of it; `step` counts from 1.

        Loss and gradient norm are means over those steps, `clipped` too; `old` and `entropy` are from
        before the first. Without a trained token nothing changes. Raises RunFailed, before any weight
        changes, when loss or gradient norm is not finite, and when memory runs out.
        """
        return self._device.call(self._update, batch, step)

    def logprobs(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Score with the current weights, as a teacher does."""
        return self._device.call(score, self._lm, requests, self._token_logprobs, self._budget)

    def publish(self, folder: Path | None) -> AdapterVersion:
        """Name the current weights after their step; write them to `folder`/name unless they are shared."""
        name = f"student-{self._step:06d}"
        if folder is None:
            return AdapterVersion(name)
        path = folder / name
        path.mkdir(parents=True, exist_ok=True)
        self._device.call(self._save_weights, path)
        for old in sorted(folder.glob("student-*"))[:-KEPT_VERSIONS]:
            shutil.rmtree(old)
        return AdapterVersion(name, path)

    def save(self, folder: Path) -> None:
        """Write the adapter (PEFT format; the whole model with rank 0) and the optimizer's state."""
        self._device.call(self._save_weights, folder)
        self._device.call(self._optimizer.save, folder, self._step)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote: the next update continues as if nothing had happened."""
        self._device.call(self._load_weights, folder)
        self._step = self._device.call(self._optimizer.load, folder)

    def _update(self, batch: Batch, step: int) -> UpdateResult:
        rate = self._settings.rate(step)
        if batch.trained_tokens == 0:
            self._step = step
            return UpdateResult(0.0, 0.0, rate, 0, {name: [] for name in COLUMNS})
        with memory_errors(f"updating the student in step {step}", MEMORY_HINT):
            tokens, parts = prepare(batch, self._lm, self._budget)
            passes: list[PassResult] = []
            norms: list[float] = []
            for _ in range(self._settings.updates_per_batch):
                old_N = passes[0].old_N if passes else None
                self._optimizer.zero_grad()
                passes.append(run_pass(self._lm, self._token_logprobs, self._objective, tokens, parts, old_N))
                norms.append(self._apply(passes[-1], rate, step))
        self._step = step
        return _result(passes, norms, rate, len(parts))

    def _apply(self, done: PassResult, rate: float, step: int) -> float:
        """Clip, check and step; returns the gradient norm before clipping."""
        loss, norm = torch.stack([done.loss, self._optimizer.clip()]).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._optimizer.zero_grad()
            raise RunFailed(
                f"step {step}: the loss is {loss} and the gradient norm {norm}; the update was not applied",
                "lower trainer.learning_rate or check the rewards, then resume from the last checkpoint",
            )
        self._optimizer.step(rate)
        self._optimizer.zero_grad()
        return float(norm)

    def _save_weights(self, folder: Path) -> None:
        if self._lm.peft is None:
            save_model(self._lm.model, folder)
        else:
            write_adapter(self._lm.peft, folder, self._lm.name)

    def _load_weights(self, folder: Path) -> None:
        if self._lm.peft is not None:
            restore_adapter(self._lm.peft, folder)
            return
        saved = load_model(str(folder), torch.float32, torch.device("cpu"))
        copy_tensors(saved.state_dict(), self._lm.model.state_dict(), folder)


def _result(passes: list[PassResult], norms: list[float], rate: float, micro_batches: int) -> UpdateResult:
    """Join the passes: means of loss, norm and `clipped`; the other columns from the first pass."""
    columns = passes[0].columns_4N.clone()
    clipped = COLUMNS.index("clipped")
    columns[clipped] = torch.stack([done.columns_4N[clipped] for done in passes]).mean(0)
    return UpdateResult(
        loss=float(torch.stack([done.loss for done in passes]).mean()),
        grad_norm=sum(norms) / len(norms),
        learning_rate=rate,
        micro_batches=micro_batches,
        columns=dict(zip(COLUMNS, columns.tolist(), strict=True)),
    )
