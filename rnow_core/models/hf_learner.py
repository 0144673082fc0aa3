"""The learner: a transformers model, its adapter or all its weights, and the optimizer, on one or several ranks."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from rnow_core.errors import RunFailed
from rnow_core.models.adapter import copy_tensors, restore_adapter, write_adapter
from rnow_core.models.averaged_adapter import AveragedAdapter
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.columns import Slab
from rnow_core.models.device import DeviceThread, memory_errors
from rnow_core.models.folder import load_model, save_model
from rnow_core.models.microbatch import token_budget
from rnow_core.models.optimizer import Optimizer, OptimizerSettings
from rnow_core.models.ranks import OneRank
from rnow_core.models.scoring import MEMORY_HINT, TokenLogprobs, score
from rnow_core.models.shares import Share, share_out
from rnow_core.models.signals import SignalTerm
from rnow_core.models.training_pass import (
    COLUMNS,
    WITH_SIGNAL,
    Objective,
    PassResult,
    TokenColumns,
    check_columns,
    prepare,
    run_pass,
)
from rnow_core.types import AdapterVersion, Batch, ScoreRequest, UpdateResult, version_name, version_step

KEPT_VERSIONS = 3
"""Published folders that stay: the one in use, the one before it, and one to spare."""


class HFLearner:
    """Owns the student's weights; everything that computes goes through the device thread.

    `token_logprobs` and `objective` are the head and the loss of algo/, handed in so that this package does
    not depend on which one a run uses.

    With several `ranks` every rank has the same weights and optimizer, and computes its share of each batch;
    gradients are summed, so that all of them take the same step. The other methods are rank 0's.

    `average` is the moving average of the weights that a teacher wears: part of every step and checkpoint. With a
    `term` the batches have signals of the teacher, and a divergence from it is part of the loss.
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
        ranks: OneRank | None = None,
        average: AveragedAdapter | None = None,
        term: SignalTerm | None = None,
    ) -> None:
        self._lm = lm
        self.average = average
        self._ranks = ranks or OneRank()
        self._device = device
        self._objective = objective
        self._token_logprobs = token_logprobs
        self.term = term
        self._names = COLUMNS if term is None else WITH_SIGNAL
        self._settings = settings
        self._budget = token_budget(micro_batch_tokens, lm.device.type)
        self._optimizer = Optimizer(lm.trainable_parameters(), settings)
        self._step = 0
        self._rolled_back = False

    def align(self) -> None:
        """Give the weights of rank 0 to all ranks, each of which calls this once, before anything else."""
        self._device.call(self._ranks.equalise, self._lm.trainable_parameters().values())
        if self.average is not None:
            self._device.call(self.average.restart)

    def update(self, batch: Batch, step: int) -> UpdateResult:
        """`updates_per_batch` optimizer steps on the batch, each over all of it; `step` counts from 1.

        Loss and gradient norm are means over those steps, `clipped` too; `old` and `entropy` are from
        before the first. Without a trained token nothing changes. Raises RunFailed, before any weight
        changes, when loss or gradient norm is not finite, when memory runs out, and when a rank is lost.
        """
        with self._ranks.leading("update", batch, step):
            return self._device.call(self._update, batch, step)

    def logprobs(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Score with the current weights, as a teacher does."""
        return self._device.call(score, self._lm, requests, self._token_logprobs, self._budget)

    def publish(self, folder: Path | None) -> AdapterVersion:
        """Name the current weights after their step; write them to `folder`/name unless they are shared."""
        name = version_name(self._step, rolled_back=self._rolled_back)
        if folder is None:
            return AdapterVersion(name)
        path = folder / name
        path.mkdir(parents=True, exist_ok=True)
        self._device.call(self._save_weights, path)
        versions = sorted(folder.glob("student-*"), key=lambda path: (version_step(path.name), path.name))
        for old in versions[:-KEPT_VERSIONS]:
            shutil.rmtree(old)
        return AdapterVersion(name, path)

    def save(self, folder: Path) -> None:
        """Write the adapter (PEFT format; the whole model with rank 0) and the optimizer's state."""
        self._device.call(self._save_weights, folder)
        self._device.call(self._optimizer.save, folder, self._step)
        if self.average is not None:
            self._device.call(self.average.save, folder)

    def load(self, folder: Path, step: int | None = None) -> None:
        """Restore what `save` wrote: the next update continues as if nothing had happened.

        With `step` the saved weights and optimizer take the place of those behind that step, under a name of its own.
        """
        with (
            self._ranks.leading("load", folder, step),
            self._ranks.together(),
            self._ranks.local_copy(folder) as here,
        ):
            self._device.call(self._load_weights, here)
            saved = self._device.call(self._optimizer.load, here)
            if self.average is not None:
                self._device.call(self.average.load, here)
        self._step, self._rolled_back = (saved, False) if step is None else (step, True)

    def _update(self, batch: Batch, step: int) -> UpdateResult:
        rate = self._settings.rate(step)
        if batch.trained_tokens == 0:
            self._step, self._rolled_back = step, False
            return UpdateResult(0.0, 0.0, rate, 0, {name: [] for name in self._names})
        with self._together(step):
            check_columns(batch)
            shares = share_out(batch, self._ranks.size)
            tokens, parts = prepare(shares[self._ranks.rank].batch, self._lm, self._budget)
        passes: list[PassResult] = []
        losses: list[float] = []
        norms: list[float] = []
        for _ in range(self._settings.updates_per_batch):
            with self._together(step):
                old_N = passes[0].old_N if passes else None
                passes.append(self._pass(tokens, parts, old_N, batch.trained_tokens))
            losses.append(sum(self._ranks.exchange(float(passes[-1].loss))))
            with self._memory_errors(step):
                self._ranks.sum_gradients(self._lm.trainable_parameters().values())
                norms.append(self._apply(losses[-1], rate, step))
        self._step, self._rolled_back = step, False
        return UpdateResult(
            loss=sum(losses) / len(losses),
            grad_norm=sum(norms) / len(norms),
            learning_rate=rate,
            micro_batches=sum(self._ranks.exchange(len(parts))),
            columns=_join(self._ranks.exchange(_columns(passes)), shares, self._names),
        )

    def _pass(self, tokens: TokenColumns, parts: list[Slab], old_N: Tensor | None, total: int) -> PassResult:
        self._optimizer.zero_grad()
        return run_pass(
            self._lm, self._token_logprobs, self._objective, tokens, parts, old_N, total, self.term
        )

    @contextmanager
    def _together(self, step: int) -> Iterator[None]:
        with self._ranks.together(), self._memory_errors(step):
            yield

    def _memory_errors(self, step: int) -> AbstractContextManager[None]:
        return memory_errors(f"updating the student in step {step}", MEMORY_HINT)

    def _apply(self, loss: float, rate: float, step: int) -> float:
        """Clip, check and step; returns the gradient norm before clipping. The same on all ranks."""
        norm = float(self._optimizer.clip())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._optimizer.zero_grad()
            raise RunFailed(
                f"step {step}: the loss is {loss} and the gradient norm {norm}; the update was not applied",
                "lower trainer.learning_rate or check the rewards, then resume from the last checkpoint",
            )
        self._optimizer.step(rate)
        self._optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        return norm

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


def _columns(passes: list[PassResult]) -> Tensor:
    """Columns over the passes, on the CPU: the mean of `clipped`, the others from the first pass."""
    columns_CN = passes[0].columns_CN.clone()
    clipped = COLUMNS.index("clipped")
    columns_CN[clipped] = torch.stack([done.columns_CN[clipped] for done in passes]).mean(0)
    return columns_CN.cpu()


def _join(columns: Sequence[Tensor], shares: Sequence[Share], names: Sequence[str]) -> dict[str, list[float]]:
    """The ranks' columns in the order of the whole batch, by name."""
    whole_CN = torch.empty(len(names), sum(len(share.trained_N) for share in shares))
    for columns_CN, share in zip(columns, shares, strict=True):
        whole_CN[:, share.trained_N] = columns_CN
    return dict(zip(names, whole_CN.tolist(), strict=True))
