"""Signals of a local teacher against transformers, and what an update makes of them."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from learner_reference import CPU, close, gradient_of, make_batch, student
from test_ranks import assert_close, assert_same_results, trainer, weights_of

from rnow_core.algo.divergence_loss import DivergenceLoss
from rnow_core.algo.events import Divergence
from rnow_core.algo.head import token_logprobs
from rnow_core.algo.objective import PolicyObjective
from rnow_core.algo.top import top_logprobs
from rnow_core.models.causal_lm import load_frozen
from rnow_core.models.columns import choose
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.optimizer import OptimizerSettings
from rnow_core.models.signals import HiddenSignal, SignalTerm, TopSignal
from rnow_core.types import Batch, ScoreRequest, SignalWish

__all__ = ["trainer"]

ROWS = 97
WEIGHT = 0.7
REQUESTS = [ScoreRequest((5, 6, 7, 8, 9), 2), ScoreRequest((1, 2), 2), ScoreRequest(tuple(range(30, 50)), 1)]


def signals_of(batch: Batch, width: int | None, seed: int = 0) -> list[TopSignal | HiddenSignal]:
    """Made up: hidden states of `width`, or without it five ids of each trained token and the sampled one."""
    generator = torch.Generator().manual_seed(seed)
    mask, lengths = torch.tensor(batch.mask), torch.tensor(batch.lengths)
    chosen = choose(mask, lengths)
    ids_N = torch.tensor(batch.ids)[chosen.flat_N]
    if width is not None:
        whole = HiddenSignal(torch.randn(len(ids_N), width, generator=generator))
    else:
        logq = torch.randn(len(ids_N), ROWS, generator=generator).mul(2).log_softmax(-1)
        top = logq.topk(5)
        ids_NS = torch.cat([top.indices, ids_N[:, None]], 1)
        logq_NS = torch.cat([top.values, logq.gather(1, ids_N[:, None])], 1)
        logq_NS[:, 5].masked_fill_((top.indices == ids_N[:, None]).any(1), math.nan)
        whole = TopSignal(ids_NS, logq_NS)
    places = [(chosen.row_N == row).nonzero()[:, 0] for row in range(len(lengths))]
    return [whole.take(rows) for rows in places]


def term_of(model_folder: Callable[..., str], *, full: bool, policy: bool = True) -> SignalTerm:
    loss = DivergenceLoss(Divergence("jsd", 0.3), WEIGHT, policy=policy)
    head = load_frozen(model_folder("llama", seed=3, hidden=48), device=CPU).head if full else None
    return SignalTerm(loss, head)


def learner_of(lm, device, term: SignalTerm | None, **changes: object) -> HFLearner:
    settings = OptimizerSettings(learning_rate=1e-2, total_steps=10, max_grad_norm=0)
    return HFLearner(
        lm,
        device,
        objective=PolicyObjective(adv_tau=1.0, teacher_tau=0.0, student_tau=0.0),
        token_logprobs=token_logprobs,
        settings=settings,
        term=term,
        **changes,
    )


@pytest.fixture
def device():
    thread = DeviceThread(threads=1)
    yield thread
    thread.close()


@pytest.mark.parametrize(("kind", "other"), [("qwen3", 97), ("gemma2", 97), ("cohere", 64)])
def test_signals_are_those_of_transformers(kind, other, model_folder, device):
    """Hidden states and their head give the model's own logits; the top ids are below the student's rows."""
    lm = load_frozen(model_folder(kind), device=CPU)
    teacher = HFTeacher(
        lm, device, token_logprobs=token_logprobs, top_logprobs=top_logprobs, micro_batch_tokens=16
    )
    hidden = asyncio.run(teacher.score_with_signal(REQUESTS, SignalWish(None, other)))
    top = asyncio.run(teacher.score_with_signal(REQUESTS, SignalWish(7, other)))
    for request, one, two in zip(REQUESTS, hidden, top, strict=True):
        with torch.no_grad():
            logq = lm.model(torch.tensor([request.ids])).logits[0, request.start - 1 : -1].log_softmax(-1)
        given = torch.tensor(request.ids[request.start :], dtype=torch.int64)
        expected = logq.gather(1, given[:, None])[:, 0]
        for found in (one, two):
            torch.testing.assert_close(torch.tensor(found.logprobs), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            lm.head.logits(one.signal.hidden_MH).log_softmax(-1), logq, atol=1e-5, rtol=0
        )
        best = logq[:, :other].sort(dim=-1, descending=True, stable=True)
        assert torch.equal(two.signal.ids_MS[:, :7], best.indices[:, :7])
        torch.testing.assert_close(two.signal.logprobs_MS[:, :7], best.values[:, :7], atol=1e-5, rtol=0)
        assert torch.equal(two.signal.ids_MS[:, 7], given)
        known = (best.indices[:, :7] == given[:, None]).any(1)
        assert torch.equal(two.signal.logprobs_MS[:, 7].isnan(), known)


def test_the_lower_id_of_equals_is_taken():
    hidden, weight = torch.tensor([[1.0, 0.0]]), torch.zeros(40, 2)
    weight[[9, 21, 30, 33]] = torch.tensor([1.0, 0.0])
    weight[39] = torch.tensor([2.0, 0.0])
    ids, logprobs, logp = top_logprobs(hidden, weight, torch.tensor([21]), 3, rows=35)
    assert sorted(ids[0].tolist()) == [9, 21, 21, 30]
    assert logprobs[0, 3].isnan()
    assert logp[0] == logprobs[0, ids[0].tolist().index(21)]


@pytest.mark.parametrize("rank", [4, 0])
@pytest.mark.parametrize("full", [False, True])
def test_the_update_is_policy_loss_and_weighted_divergence(rank, full, model_folder, device):
    """Against autograd on the full logits in float64; a third of the tokens have no signal."""
    batch = make_batch(rows=6)
    silent = [flag and t % 3 == 0 for t, flag in enumerate(batch.mask)]
    batch = replace(batch, teacher=[math.nan if s else v for s, v in zip(silent, batch.teacher, strict=True)])
    heard = replace(batch, mask=[m and not s for m, s in zip(batch.mask, silent, strict=True)])
    signals = signals_of(heard, 48 if full else None)
    term = term_of(model_folder, full=full)
    lm = student(model_folder(), rank=rank)
    made = learner_of(lm, device, term, micro_batch_tokens=50)
    got = gradient_of(made, replace(batch, signals=signals))
    result = learner_of(student(model_folder(), rank=rank), device, term).update(
        replace(batch, signals=signals), 1
    )
    loss, gradient, divergence = naive(student(model_folder(), rank=rank), batch, heard, signals, term)
    close(got, gradient, 1e-4)
    assert result.loss == pytest.approx(loss, abs=1e-5)
    column = torch.tensor(result.columns["divergence"])
    kept = torch.tensor([not s for s, m in zip(silent, batch.mask, strict=True) if m])
    assert torch.equal(~column.isnan(), kept)
    torch.testing.assert_close(column[kept].double(), divergence, atol=1e-5, rtol=0)


def naive(lm, batch: Batch, heard: Batch, signals, term: SignalTerm):
    """Loss, gradients and divergences from full tables of logits."""
    (lm.peft or lm.model).double()
    if term.teacher_head is not None:
        logq_M = torch.cat([term.teacher_head.logits(s.hidden_MH).double() for s in signals]).log_softmax(-1)
    logp_N, rows = [], []
    start = 0
    for length in batch.lengths:
        ids = torch.tensor(batch.ids[start : start + length])
        logits = lm.model(ids[None]).logits[0].log_softmax(-1)
        for t in range(length):
            if batch.mask[start + t]:
                logp_N.append(logits[t - 1, ids[t]])
            if heard.mask[start + t]:
                rows.append(logits[t - 1])
        start += length
    logp = torch.stack(logp_N)
    mask = torch.tensor(batch.mask)
    task, mu = (torch.tensor(values, dtype=torch.float64)[mask] for values in (batch.task, batch.mu))
    w = (logp.detach() - mu).clamp(-20, 20).exp().clamp(max=2.0)
    policy = -(w * (logp - logp.detach()).exp() * task).sum()
    if term.teacher_head is not None:
        values = torch.stack([jsd(row, q) for row, q in zip(rows, logq_M, strict=True)])
    else:
        ids_M = torch.cat([s.ids_MS for s in signals])
        logq_MS = torch.cat([s.logprobs_MS for s in signals]).double()
        values = torch.stack([coarse(*each) for each in zip(rows, ids_M, logq_MS, strict=True)])
    total = (policy + WEIGHT * values.sum()) / int(mask.sum())
    parameters = lm.trainable_parameters()
    gradients = torch.autograd.grad(total, list(parameters.values()))
    return total.item(), dict(zip(parameters, gradients, strict=True)), values.detach()


def jsd(log_a: torch.Tensor, log_b: torch.Tensor, beta: float = 0.3) -> torch.Tensor:
    a, b = log_a.exp(), log_b.exp()
    log_m = ((1 - beta) * a + beta * b).log()
    return (beta * b * (log_b - log_m) + (1 - beta) * a * (log_a - log_m)).sum()


def coarse(row: torch.Tensor, ids: torch.Tensor, logq: torch.Tensor) -> torch.Tensor:
    """`jsd` over the given ids and one bucket for the rest."""
    ids, logq = ids[~logq.isnan()], logq[~logq.isnan()]
    rest = torch.ones(len(row), dtype=torch.bool).index_fill(0, ids, False)
    tail = (1 - logq.exp().sum()).clamp(min=1e-6).log()
    return jsd(torch.cat([row[ids], row[rest].logsumexp(0)[None]]), torch.cat([logq, tail[None]]))


def test_ranks_and_later_passes_use_the_same_signals(trainer, model_folder):
    batch = make_batch(rows=5, seed=1)
    batch = replace(batch, signals=signals_of(batch, 48))
    setup = {"term": term_of(model_folder, full=True), "settings": {"updates_per_batch": 2}, "tokens": 60}
    (alone, _), (together, _) = trainer(1, **setup), trainer(2, **setup)
    assert_same_results(together.update(batch, 1), alone.update(batch, 1))
    assert_close(weights_of(together), weights_of(alone), 2e-5)


def test_signals_that_do_not_fit_are_an_error(model_folder, device):
    batch = make_batch(rows=3, seed=2)
    signals = signals_of(batch, None)
    made = learner_of(student(model_folder()), device, term_of(model_folder, full=False))
    with pytest.raises(ValueError, match=r"signals for \d+ tokens, expected \d+"):
        made.update(replace(batch, signals=[signals[0].take(()), *signals[1:]]), 1)
