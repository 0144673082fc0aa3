"""The update against a naive full-logit reference, and what must not change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from learner_reference import TAU, close, gradient_of, make_batch, naive, reference_loss, student
from torch import Tensor

from rnow_core.algo.objective import PolicyObjective
from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.hf_learner import HFLearner
from rnow_core.types import Batch

OBJECTIVE = PolicyObjective(adv_tau=1.0, teacher_tau=TAU, student_tau=TAU)
TASK_ONLY = PolicyObjective(adv_tau=1.0, teacher_tau=0.0, student_tau=0.0)


@pytest.mark.parametrize(
    ("kind", "rank"), [("qwen3", 4), ("qwen3", 0), ("gemma2", 4), ("gemma2", 0), ("cohere", 4), ("llama", 0)]
)
@pytest.mark.parametrize("with_teacher", [True, False])
def test_loss_gradient_and_columns_equal_the_naive_reference(
    kind: str,
    rank: int,
    with_teacher: bool,
    model_folder: Callable[..., str],
    learner: Callable[..., HFLearner],
) -> None:
    batch = make_batch() if with_teacher else replace(make_batch(), teacher=[])
    loss, gradient, columns = naive(student(model_folder(kind), rank=rank), batch)
    goal = OBJECTIVE if with_teacher else TASK_ONLY
    made = learner(student(model_folder(kind), rank=rank), tokens=64, goal=goal, max_grad_norm=0)
    close(gradient_of(made, batch), gradient, 1e-4)
    result = learner(student(model_folder(kind), rank=rank), tokens=64, goal=goal).update(batch, 1)
    assert result.loss == pytest.approx(loss, abs=1e-5)
    norm = torch.stack([part.square().sum() for part in gradient.values()]).sum().sqrt().item()
    assert result.grad_norm == pytest.approx(norm, rel=1e-4)
    for name, values in columns.items():
        assert result.columns[name] == pytest.approx(values, abs=1e-4), name
    assert not any(result.columns["clipped"])
    assert all(len(column) == batch.trained_tokens for column in result.columns.values())


def test_micro_batches_do_not_change_the_gradient(learner: Callable[..., HFLearner]) -> None:
    batch = make_batch()
    whole = gradient_of(learner(tokens=100_000), batch)
    counts = []
    for tokens in (1, 40, 90):
        close(gradient_of(learner(tokens=tokens), batch), whole, 1e-5)
        counts.append(learner(tokens=tokens).update(batch, 1).micro_batches)
    assert counts[0] == sum(1 for length in batch.lengths) - 1 > counts[1] > counts[2] > 1


def test_row_order_and_untrained_rows_do_not_change_the_gradient(learner: Callable[..., HFLearner]) -> None:
    batch = make_batch(rows=6)
    starts = [sum(batch.lengths[:row]) for row in range(6)]

    def reordered(rows: list[int]) -> Batch:
        places = [t for row in rows for t in range(starts[row], starts[row] + batch.lengths[row])]
        columns = {
            name: [getattr(batch, name)[t] for t in places]
            for name in ("ids", "mask", "mu", "teacher", "task")
        }
        return Batch(lengths=[batch.lengths[row] for row in rows], **columns)

    expected = gradient_of(learner(), batch)
    close(gradient_of(learner(), reordered([5, 4, 3, 2, 1, 0])), expected, 1e-5)
    close(gradient_of(learner(), reordered([0, 1, 3, 4, 5])), expected, 1e-5)


def test_values_outside_the_mask_are_never_read(learner: Callable[..., HFLearner]) -> None:
    batch = make_batch()
    poisoned = {
        name: [
            value if kept else float("nan")
            for value, kept in zip(getattr(batch, name), batch.mask, strict=True)
        ]
        for name in ("mu", "teacher", "task")
    }
    expected, got = learner().update(batch, 1), learner().update(replace(batch, **poisoned), 1)
    assert got == expected


@pytest.mark.parametrize("rank", [4, 0])
def test_gradient_checkpointing_gives_identical_gradients(
    rank: int, model_folder: Callable[..., str], learner: Callable[..., HFLearner]
) -> None:
    plain = gradient_of(learner(student(model_folder(), rank=rank)), make_batch())
    lm = student(model_folder(), rank=rank, gradient_checkpointing=True)
    calls = []
    layer = lm.model.get_decoder().layers[0]
    layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    saved = gradient_of(learner(lm), make_batch())
    assert len(calls) == 2  # once forward, once again in backward
    assert all(torch.equal(saved[name], plain[name]) for name in plain)


def test_clipping_scales_the_applied_gradient_and_reports_the_norm(learner: Callable[..., HFLearner]) -> None:
    made = learner(max_grad_norm=1e-3)
    weights = list(made._lm.trainable_parameters().values())
    norms = []
    made._optimizer._adamw.register_step_pre_hook(
        lambda *_: norms.append(torch.stack([weight.grad.norm() for weight in weights]).norm().item())
    )
    assert made.update(make_batch(), 1).grad_norm > 1e-2
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_no_trained_token_changes_nothing(learner: Callable[..., HFLearner]) -> None:
    made = learner(weight_decay=0.1)
    before = {name: weight.clone() for name, weight in made._lm.trainable_parameters().items()}
    batch = make_batch()
    result = made.update(replace(batch, mask=[False] * len(batch.ids)), 3)
    assert (result.loss, result.grad_norm, result.micro_batches) == (0.0, 0.0, 0)
    assert {name: list(column) for name, column in result.columns.items()} == {
        "old": [],
        "advantage": [],
        "clipped": [],
        "entropy": [],
    }
    assert all(torch.equal(before[name], weight) for name, weight in made._lm.trainable_parameters().items())
    assert made.publish(None).name == "student-000003"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(
    bad: float, learner: Callable[..., HFLearner]
) -> None:
    made = learner()
    before = {name: weight.clone() for name, weight in made._lm.trainable_parameters().items()}
    batch = make_batch()
    task = [bad if t == batch.mask.index(True) else value for t, value in enumerate(batch.task)]
    with pytest.raises(RunFailed, match="step 7: the loss is"):
        made.update(replace(batch, task=task), 7)
    assert all(torch.equal(before[name], weight) for name, weight in made._lm.trainable_parameters().items())
    assert made.publish(None).name == "student-000000"


def test_columns_that_do_not_fit_are_errors(learner: Callable[..., HFLearner]) -> None:
    batch = make_batch()
    total = len(batch.ids)
    with pytest.raises(ValueError, match=f"column mu has {total - 1} values, expected {total}"):
        learner().update(replace(batch, mu=batch.mu[1:]), 1)
    with pytest.raises(ValueError, match=f"lengths add up to {total + 1}, but there are {total} ids"):
        learner().update(replace(batch, lengths=[batch.lengths[0] + 1, *batch.lengths[1:]]), 1)
    with pytest.raises(ValueError, match="row 0: its first token"):
        learner().update(replace(batch, mask=[True, *batch.mask[1:]]), 1)
    with pytest.raises(RnowError, match="id 97 is beyond the 97 rows"):
        learner().update(replace(batch, ids=[97, *batch.ids[1:]]), 1)


def test_updates_per_batch_repeats_whole_passes_against_the_first_logprobs(
    learner: Callable[..., HFLearner], model_folder: Callable[..., str]
) -> None:
    batch = make_batch()
    result = learner(updates_per_batch=3, learning_rate=0.05, max_grad_norm=0).update(batch, 1)
    once = learner(learning_rate=0.05, max_grad_norm=0).update(batch, 1)
    assert result.columns["old"] == once.columns["old"]
    assert result.columns["advantage"] == once.columns["advantage"]
    assert 0 < sum(result.columns["clipped"]) < 3 * batch.trained_tokens

    lm = student(model_folder())
    optimizer = torch.optim.AdamW(lm.trainable_parameters().values(), lr=0.05, weight_decay=0.0)
    old, losses = None, []
    for _ in range(3):
        loss, old = reference_loss(lm, batch, old)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    made = learner(updates_per_batch=3, learning_rate=0.05, max_grad_norm=0)
    assert made.update(batch, 1).loss == pytest.approx(sum(losses) / 3, rel=1e-3)
    for name, weight in made._lm.trainable_parameters().items():
        torch.testing.assert_close(weight, lm.trainable_parameters()[name], atol=2e-3, rtol=0)


def test_the_objective_gets_whole_rows_in_order(learner: Callable[..., HFLearner]) -> None:
    batch = make_batch()
    seen: list[tuple[int, int]] = []
    calls: list[set[int]] = []

    def watching(logp_N: Tensor, **columns: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        pairs = list(zip(columns["row_N"].tolist(), columns["position_N"].tolist(), strict=True))
        assert [row for row, _ in pairs] == sorted(
            [row for row, _ in pairs], key=[row for row, _ in pairs].index
        )
        seen.extend(pairs)
        calls.append({row for row, _ in pairs})
        return OBJECTIVE(logp_N, **columns)

    learner(tokens=60, goal=watching).update(batch, 1)
    starts = [sum(batch.lengths[:row]) for row in range(len(batch.lengths))]
    expected = [
        (row, t)
        for row, length in enumerate(batch.lengths)
        for t in range(length)
        if batch.mask[starts[row] + t]
    ]
    assert sorted(seen) == expected
    assert sum(len(rows) for rows in calls) == len(set().union(*calls))
    per_row = [[t for r, t in seen if r == row] for row in range(len(batch.lengths))]
    assert all(positions == sorted(positions) for positions in per_row)


def test_training_towards_the_teacher_lowers_the_kl(
    model_folder: Callable[..., str], learner: Callable[..., HFLearner]
) -> None:
    """With the ids fixed, raising what the teacher likes more raises logp of exactly those tokens."""
    made = learner(learning_rate=3e-3, total_steps=20)
    batch = make_batch()
    first = made.update(batch, 1)
    for step in range(2, 15):
        last = made.update(batch, step)
    moved = zip(first.columns["old"], last.columns["old"], first.columns["advantage"], strict=True)
    gain = sum((new - old) * advantage for old, new, advantage in moved)
    assert gain > 0
