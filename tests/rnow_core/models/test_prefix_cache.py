"""Shared prefixes: the same logprobs as row by row, nothing forwarded twice, never all rows laid out at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from rnow_core.algo.head import token_logprobs
from rnow_core.models import prefix_attention
from rnow_core.models.causal_lm import CausalLM, load_frozen, load_student
from rnow_core.models.device import DeviceThread
from rnow_core.models.families import families
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.prefix_attention import shares_prefixes
from rnow_core.models.prefix_cache import PrefixScorer
from rnow_core.models.scoring import score
from rnow_core.types import ScoreRequest

CPU = torch.device("cpu")
CONTEXT, PROMPT = 64, 96


def some(stream: random.Random, count: int) -> tuple[int, ...]:
    return tuple(stream.randrange(97) for _ in range(count))


def step(seed: int = 0) -> list[ScoreRequest]:
    """A context before everything; two prompts with seven replies each, five with one; one row without it."""
    stream = random.Random(seed)
    context = some(random.Random(99), CONTEXT)
    made = []
    for group in (7, 7, 1, 1, 1, 1, 1):
        prompt = context + some(stream, PROMPT if group > 1 else stream.randint(3, 30))
        made += [ScoreRequest(prompt + some(stream, 2 + n), len(prompt)) for n in range(group)]
    made.append(ScoreRequest(some(stream, 20), 12))
    stream.shuffle(made)
    return made


@contextmanager
def forwarded(lm: CausalLM) -> Iterator[list[int]]:
    """Tokens of each forward pass inside the block."""
    counts: list[int] = []
    hook = lm.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    yield counts
    hook.remove()


def assert_close(got: Sequence[list[float]], expected: Sequence[list[float]]) -> None:
    for row, reference in zip(got, expected, strict=True):
        assert row == pytest.approx(reference, abs=2e-5)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3"])
def test_scores_behind_shared_prefixes_equal_those_of_whole_rows(
    kind: str, model_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load_frozen(model_folder(kind), device=CPU)
    assert shares_prefixes(lm)
    expected = score(lm, step(), token_logprobs, 400)
    monkeypatch.setattr(prefix_attention, "BLOCK", 5)
    for budget in (1, 500):
        with forwarded(lm) as counts:
            got = PrefixScorer(lm, token_logprobs, budget, keep=False).score(step())
        assert_close(got, expected)
        assert sum(counts) < 0.6 * sum(len(request.ids) for request in step())


def test_two_levels_and_where_they_are_cut() -> None:
    tree = families(step())
    (context,) = tree.children
    assert (context.length, context.whole, len(context.rows)) == (CONTEXT, False, 5)
    assert [(c.length, c.whole, len(c.rows)) for c in context.children] == [
        (CONTEXT + PROMPT - 1, True, 7)
    ] * 2
    assert len(tree.rows) == 1
    few = [ScoreRequest((*range(60), n, 5), 61) for n in range(3)]
    assert families(few).children == ()  # 2 x 48 tokens are not worth a forward pass
    for reply, shared in ((300, 1), (600, 0)):  # long replies spend their time in attention
        long = [ScoreRequest((*range(100), n, *range(reply)), 101) for n in range(10)]
        assert len(families(long).children) == shared


def test_rows_take_turns_behind_the_prefix(
    model_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load_frozen(model_folder(), device=CPU)
    attend, laid_out = F.scaled_dot_product_attention, []

    def spy(query: torch.Tensor, key: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
        if query.shape[2] < key.shape[2]:
            laid_out.append((key.shape[0], key.shape[0] * key.shape[2]))
        return attend(query, key, *rest, **options)

    requests = [request for request in step() if len(request.ids) > CONTEXT]
    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    PrefixScorer(lm, token_logprobs, 500, keep=False).score(requests)
    assert max(rows for rows, _ in laid_out) > 1
    assert max(tokens for _, tokens in laid_out) <= 500


def test_a_frozen_teacher_forwards_its_context_once_a_run(model_folder: Callable[..., str]) -> None:
    lm = load_student(model_folder(), rank=4, alpha=8, device=CPU, gradient_checkpointing=True)
    device = DeviceThread(threads=1)
    with torch.no_grad():
        for weight in lm.trainable_parameters().values():
            weight.add_(0.3)
    kept = HFTeacher(lm, device, token_logprobs=token_logprobs, wearing=lm.adapter_off, frozen=True)
    changing = HFTeacher(lm, device, token_logprobs=token_logprobs, wearing=lm.adapter_off)
    base = load_frozen(model_folder(), device=CPU)
    for seed in range(3):
        lm.hidden(torch.tensor([[1, 2, 3]])).sum().backward()  # a step of training in between
        with forwarded(lm) as first:
            got = asyncio.run(kept.score(step(seed)))
        with forwarded(lm) as second:
            again = asyncio.run(changing.score(step(seed)))
        assert got == again  # to the bit: a resumed run computes anew what another one had kept
        assert sum(second) - sum(first) == (CONTEXT if seed else 0)
        assert_close(got, score(base, step(seed), token_logprobs, 400))
    device.close()


def test_a_model_that_cannot_share_is_scored_row_by_row(model_folder: Callable[..., str]) -> None:
    lm = load_frozen(model_folder(), device=CPU)
    lm.packable = False
    expected = score(lm, step(), token_logprobs, 400)
    assert PrefixScorer(lm, token_logprobs, 400, keep=True).score(step()) == expected
