"""The update against a naive full-logit float64 reference, and what must not change it."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.objective import PolicyObjective
from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.causal_lm import CausalLM, load_student
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.optimizer import OptimizerSettings
from rnow_core.types import Batch, ScoreRequest

CPU = torch.device("cpu")
TAU = 0.7
OBJECTIVE = PolicyObjective(adv_tau=1.0, teacher_tau=TAU, student_tau=TAU)
TASK_ONLY = PolicyObjective(adv_tau=1.0, teacher_tau=0.0, student_tau=0.0)


def reference_objective(
    logp_N: Tensor,
    *,
    old_N: Tensor,
    mu_N: Tensor,
    teacher_N: Tensor | None,
    task_N: Tensor,
    row_N: Tensor,
    position_N: Tensor,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """PPO on tau * (teacher - old) + task with the truncated sampler weight, as the design writes it."""
    advantage = task_N if teacher_N is None else task_N + TAU * (teacher_N - old_N)
    weight = (old_N - mu_N).clamp(-20, 20).exp().clamp(max=2.0)
    ratio = (logp_N - old_N).exp()
    plain, clipped = ratio * advantage, ratio.clamp(0.8, 1.2) * advantage
    loss = -(weight * torch.minimum(plain, clipped)).sum()
    return loss, {"old": old_N, "advantage": advantage, "clipped": (clipped < plain).float()}


def make_batch(rows: int = 11, vocab: int = 97, seed: int = 0, longest: int = 30) -> Batch:
    """Rows of mixed length: a prompt, then sampled tokens with some glue between; one row trains nothing."""
    stream = random.Random(seed)
    ids, lengths, mask, mu, teacher, task = [], [], [], [], [], []
    for row in range(rows):
        length = stream.randint(3, longest)
        prompt = length if row == 2 else stream.randint(1, length - 1)
        advantage = stream.uniform(-1, 1)
        lengths.append(length)
        for position in range(length):
            trained = position >= prompt and (position == prompt or stream.random() < 0.8)
            ids.append(stream.randrange(vocab))
            mask.append(trained)
            mu.append(stream.uniform(-6, -2) if trained else 0.0)
            teacher.append(stream.uniform(-6, -2) if position >= prompt else 0.0)
            task.append(advantage)
    return Batch(ids, lengths, mask, mu, teacher, task)


def student(path: str, seed: int = 5, **changes: object) -> CausalLM:
    """A student whose adapter already does something, so that both of its halves have gradients."""
    lm = load_student(path, **({"rank": 4, "alpha": 8.0, "device": CPU} | changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in lm.trainable_parameters().items():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return lm


@pytest.fixture
def learner(model_folder: Callable[..., str]):
    """`learner(**changes)`: an HFLearner; `lm`, `tokens` (micro_batch_tokens) and settings can be changed."""
    device = DeviceThread(threads=1)

    def make(
        lm: CausalLM | None = None,
        tokens: int | None = None,
        goal: PolicyObjective = OBJECTIVE,
        **changes: object,
    ) -> HFLearner:
        settings = OptimizerSettings(**({"learning_rate": 1e-2, "total_steps": 10} | changes))
        return HFLearner(
            lm or student(model_folder()),
            device,
            objective=goal,
            token_logprobs=token_logprobs,
            settings=settings,
            micro_batch_tokens=tokens,
        )

    yield make
    device.close()


def gradient_of(made: HFLearner, batch: Batch) -> dict[str, Tensor]:
    """The gradient that the update applies, caught on its way into the optimizer."""
    caught: dict[str, Tensor] = {}
    parameters = made._lm.trainable_parameters()
    handles = [
        weight.register_post_accumulate_grad_hook(
            lambda weight, name=name: caught.__setitem__(name, weight.grad.clone())
        )
        for name, weight in parameters.items()
    ]
    made.update(batch, 1)
    for handle in handles:
        handle.remove()
    assert caught.keys() == parameters.keys()
    return caught


def naive(lm: CausalLM, batch: Batch) -> tuple[float, dict[str, Tensor], dict[str, list[float]]]:
    """Loss, gradient and columns in float64, row by row, from the full table of the model's own logits."""
    model = lm.peft or lm.model
    model.double()
    parameters = lm.trainable_parameters()
    total = torch.zeros((), dtype=torch.float64)
    columns: dict[str, list[float]] = {"old": [], "advantage": [], "entropy": []}
    start = 0
    for row, length in enumerate(batch.lengths):
        part = slice(start, start + length)
        ids = torch.tensor(batch.ids[part])
        logq = torch.log_softmax(lm.model(ids[None]).logits[0], -1)
        where = [t for t in range(length) if batch.mask[start + t]]
        logp = torch.stack([logq[t - 1, ids[t]] for t in where]) if where else torch.zeros(0)
        column = {
            name: torch.tensor([getattr(batch, name)[start + t] for t in where], dtype=torch.float64)
            for name in ("mu", "teacher", "task")
            if getattr(batch, name)
        }
        loss, made = reference_objective(
            logp,
            old_N=logp.detach(),
            mu_N=column["mu"],
            teacher_N=column.get("teacher"),
            task_N=column["task"],
            row_N=torch.full((len(where),), row),
            position_N=torch.tensor(where),
        )
        total = total + loss
        columns["old"] += logp.tolist()
        columns["advantage"] += made["advantage"].tolist()
        columns["entropy"] += [-(logq[t - 1].exp() * logq[t - 1]).sum().item() for t in where]
        start += length
    total = total / sum(batch.mask)
    gradients = torch.autograd.grad(total, list(parameters.values()))
    return total.item(), dict(zip(parameters, gradients, strict=True)), columns


def close(got: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    size = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (got[name].double() - gradient).abs().max().item() <= tolerance * size, name


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


def reference_loss(lm: CausalLM, batch: Batch, old: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss in float32 from full logits, row by row, against the given old logprobs."""
    logp = []
    start = 0
    for length in batch.lengths:
        ids = torch.tensor(batch.ids[start : start + length])
        logq = torch.log_softmax(lm.model(ids[None]).logits[0], -1)
        logp += [logq[t - 1, ids[t]] for t in range(length) if batch.mask[start + t]]
        start += length
    logp_N = torch.stack(logp)
    old_N = logp_N.detach() if old is None else old
    mask = torch.tensor(batch.mask)
    empty = torch.zeros(0)
    loss, _ = reference_objective(
        logp_N,
        old_N=old_N,
        mu_N=torch.tensor(batch.mu)[mask],
        teacher_N=torch.tensor(batch.teacher)[mask],
        task_N=torch.tensor(batch.task)[mask],
        row_N=empty,
        position_N=empty,
    )
    return loss / len(logp_N), old_N


def test_the_objective_gets_whole_rows_in_order(model_folder: Callable[..., str]) -> None:
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

    device = DeviceThread()
    settings = OptimizerSettings(learning_rate=1e-3, total_steps=1)
    HFLearner(
        student(model_folder()),
        device,
        objective=watching,
        token_logprobs=token_logprobs,
        settings=settings,
        micro_batch_tokens=60,
    ).update(batch, 1)
    device.close()
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


@pytest.mark.parametrize("rank", [4, 0])
def test_resuming_is_byte_identical_to_not_stopping(
    rank: int, model_folder: Callable[..., str], learner: Callable[..., HFLearner], tmp_path: Path
) -> None:
    settings = {"lr_schedule": "cosine", "warmup_steps": 2, "total_steps": 5, "weight_decay": 0.01}
    batches = [make_batch(seed=step) for step in range(5)]
    straight = learner(load_student(model_folder(), rank=rank, alpha=8, device=CPU), **settings)
    for folder in ("start", "middle", "straight", "resumed"):
        (tmp_path / folder).mkdir()
    straight.save(tmp_path / "start")
    for step in range(1, 6):
        straight.update(batches[step - 1], step)
        if step == 2:
            straight.save(tmp_path / "middle")
    straight.save(tmp_path / "straight")

    resumed = learner(load_student(model_folder(), rank=rank, alpha=8, device=CPU, seed=99), **settings)
    resumed.load(tmp_path / "middle")
    assert resumed.publish(None).name == "student-000002"
    for step in range(3, 6):
        resumed.update(batches[step - 1], step)
    resumed.save(tmp_path / "resumed")
    assert_same_files(tmp_path / "straight", tmp_path / "resumed")

    resumed.load(tmp_path / "start")
    (tmp_path / "again").mkdir()
    for step in range(1, 6):
        resumed.update(batches[step - 1], step)
    resumed.save(tmp_path / "again")
    assert_same_files(tmp_path / "straight", tmp_path / "again")


def assert_same_files(first: Path, second: Path) -> None:
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert "optimizer.safetensors" in names
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_loading_another_runs_checkpoint_is_an_error(
    model_folder: Callable[..., str], learner: Callable[..., HFLearner], tmp_path: Path
) -> None:
    made = learner(student(model_folder(), rank=2))
    made.update(make_batch(), 1)
    made.save(tmp_path)
    with pytest.raises(RnowError, match=r"expected \(4, 64\), got \(2, 64\)"):
        learner(student(model_folder(), rank=4)).load(tmp_path)


def test_published_weights_are_what_peft_reads(
    model_folder: Callable[..., str], learner: Callable[..., HFLearner], tmp_path: Path
) -> None:
    made = learner()
    made.update(make_batch(), 1)
    version = made.publish(tmp_path / "adapters")
    assert (version.name, version.path) == ("student-000001", tmp_path / "adapters" / "student-000001")
    request = ScoreRequest((5, 9, 33, 21, 60), 1)
    program = (
        "import sys, torch, peft, transformers\n"
        "base = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)\n"
        "model = peft.PeftModel.from_pretrained(base, sys.argv[2]).eval()\n"
        f"ids = torch.tensor([{list(request.ids)}])\n"
        "logp = torch.log_softmax(model(ids).logits[0], -1)\n"
        "print(*[logp[t - 1, ids[0, t]].item() for t in range(1, ids.shape[1])])\n"
    )
    command = [sys.executable, "-c", program, model_folder(), str(version.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = [float(word) for word in done.stdout.split()]
    assert made.logprobs([request])[0] == pytest.approx(expected, abs=1e-5)


def test_a_whole_model_is_published_as_a_model_folder(
    model_folder: Callable[..., str], learner: Callable[..., HFLearner], tmp_path: Path
) -> None:
    made = learner(student(model_folder(), rank=0))
    made.update(make_batch(), 1)
    version = made.publish(tmp_path)
    request = ScoreRequest((5, 9, 33, 21, 60), 1)
    again = learner(student(str(version.path), rank=0))
    assert again.logprobs([request]) == made.logprobs([request])
    assert learner(student(model_folder(), rank=0)).logprobs([request]) != made.logprobs([request])


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
