"""Batches, a student, and the update's naive reference: full logits, row by row, no chunks and no padding."""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from torch import Tensor

from rnow_core.models.causal_lm import CausalLM, load_student
from rnow_core.models.hf_learner import HFLearner
from rnow_core.types import Batch

CPU = torch.device("cpu")
TAU = 0.7


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
