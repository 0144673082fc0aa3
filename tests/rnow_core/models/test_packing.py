"""Packed rows: each conversation as if it stood alone, whatever the family, in logprobs and in gradients."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain

import pytest
import torch
from learner_reference import CPU, student
from torch import Tensor

from rnow_core.algo.head import token_logprobs
from rnow_core.models.causal_lm import CausalLM, load_frozen
from rnow_core.models.columns import choose, slabs
from rnow_core.models.scoring import read_off, score
from rnow_core.types import ScoreRequest

FAMILIES = ["qwen2-window", "qwen3", "llama", "mistral", "gemma", "gemma2-bent", "gemma3", "cohere"]


def conversations(count: int = 7, longest: int = 40, seed: int = 0) -> list[list[int]]:
    stream = random.Random(seed)
    lengths = [min(longest, max(3, int(stream.lognormvariate(2.5, 0.8)))) for _ in range(count)]
    return [[stream.randrange(97) for _ in range(length)] for length in lengths]


def logprobs(lm: CausalLM, rows: list[list[int]], budget: int, packed: bool) -> Tensor:
    """Of every token but the first of each row, in the rows' order, with gradients."""
    ids_F, lengths_R = torch.tensor(list(chain.from_iterable(rows))), torch.tensor([len(row) for row in rows])
    chosen = choose(torch.tensor([t > 0 for row in rows for t in range(len(row))]), lengths_R)
    parts = slabs(ids_F, lengths_R, chosen, budget, lm.device, packed=packed)
    ids_N = ids_F[chosen.flat_N].to(lm.device)
    found = [read_off(lm, token_logprobs, part, ids_N[part.chosen_N])[0] for part in parts]
    return torch.cat(found)[torch.cat([part.chosen_N for part in parts]).argsort()]


def loss_and_gradients(
    lm: CausalLM, rows: list[list[int]], budget: int, packed: bool
) -> tuple[Tensor, list[Tensor]]:
    logp_N = logprobs(lm, rows, budget, packed)
    factor_N = torch.linspace(0.5, 2.0, len(logp_N), device=logp_N.device)
    weights = list(lm.trainable_parameters().values())
    return logp_N.detach(), list(torch.autograd.grad((factor_N * logp_N).sum(), weights))


@pytest.mark.parametrize("kind", FAMILIES)
def test_packed_rows_equal_rows_alone(kind: str, model_folder: Callable[..., str]) -> None:
    """A budget of one token puts every unpacked row alone; windows are shorter than the rows."""
    rows = conversations()
    assert max(map(len, rows)) > 16
    for changes in ({}, {"gradient_checkpointing": True}):
        lm = student(model_folder(kind), rank=2, **changes)
        assert lm.packable
        packed, packed_gradients = loss_and_gradients(lm, rows, 60, packed=True)
        alone, alone_gradients = loss_and_gradients(lm, rows, 1, packed=False)
        torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
        size = max(gradient.abs().max() for gradient in alone_gradients)
        assert size > 0.1
        for got, expected in zip(packed_gradients, alone_gradients, strict=True):
            assert (got - expected).abs().max() <= 1e-5 * size


def test_a_conversation_does_not_see_its_neighbour(model_folder: Callable[..., str]) -> None:
    lm = load_frozen(model_folder("mistral"), device=CPU)
    first, second, third = conversations(3, seed=1)
    changed = [(token + 1) % 97 for token in second]
    before, after = (logprobs(lm, [first, middle, third], 999, packed=True) for middle in (second, changed))
    begin, end = len(first) - 1, len(first) + len(second) - 2
    assert torch.equal(before[:begin], after[:begin])
    assert torch.equal(before[end:], after[end:])
    assert not torch.allclose(before[begin:end], after[begin:end])


@pytest.mark.parametrize("kind", ["qwen3-next", "lfm2"])
def test_models_with_other_ways_between_tokens_are_not_packed(
    kind: str, model_folder: Callable[..., str]
) -> None:
    """Qwen3-Next says that it keeps a state; LFM2's convolutions are found out by the trial."""
    lm = load_frozen(model_folder(kind), device=CPU)
    assert not lm.packable
    rows = conversations(4)
    requests = [ScoreRequest(tuple(row), 1) for row in rows]
    got = score(lm, requests, token_logprobs, 60)
    alone = [score(lm, [request], token_logprobs, 60)[0] for request in requests]
    torch.testing.assert_close(torch.tensor([*chain(*got)]), torch.tensor([*chain(*alone)]))


def test_no_position_is_computed_for_nothing(model_folder: Callable[..., str]) -> None:
    """Skewed lengths: what goes through the model is at most the real tokens, for training and scoring alike."""
    lm = load_frozen(model_folder("qwen3"), device=CPU)
    assert lm.packable
    rows = conversations(60, longest=200, seed=2)
    seen: list[int] = []
    handle = lm.model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, given: seen.append(given["input_ids"].numel()), with_kwargs=True
    )
    score(lm, [ScoreRequest(tuple(row), 1) for row in rows], token_logprobs, 256)
    handle.remove()
    assert sum(seen) == sum(len(row) - 1 for row in rows)
    assert max(seen) <= 256


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gemma2-bent"])
def test_variable_length_kernels_are_as_exact_as_rows_alone(
    kind: str, model_folder: Callable[..., str]
) -> None:
    """In bfloat16 on a GPU, against float32 rows: packing adds no error to that of half precision."""
    rows = conversations(20, longest=120)
    exact = loss_and_gradients(student(model_folder(kind), rank=2), rows, 1, packed=False)
    lm = student(model_folder(kind), rank=2, device=torch.device("cuda"))
    assert lm.packable

    def error(budget: int, packed: bool) -> tuple[float, float]:
        logp_N, gradients = loss_and_gradients(lm, rows, budget, packed)
        flat, true = (torch.cat([part.flatten().cpu() for part in parts]) for parts in (gradients, exact[1]))
        return float((logp_N.cpu() - exact[0]).abs().mean()), float((flat - true).norm() / true.norm())

    for packed, alone in zip(error(512, True), error(1, False), strict=True):
        assert packed <= 1.5 * alone + 1e-3
