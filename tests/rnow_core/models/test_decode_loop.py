import random

import pytest
import torch

from rnow_core.models.causal_lm import load_frozen
from rnow_core.models.decode_loop import PREFILL_TOKENS, DecodeLoop, prefill_batches
from rnow_core.models.rows import Request
from rnow_core.types import SamplingParams


@pytest.fixture(scope="module")
def lm(model_folder):
    return load_frozen(model_folder("qwen3"), device=torch.device("cpu"))


def requests(count, *, limit=6, stop_ids=(), seed=0, same=False):
    rng = random.Random(seed)
    prompts = [tuple(rng.randrange(97) for _ in range(rng.randint(2, 20))) for _ in range(count)]
    params = SamplingParams(max_tokens=limit, stop_ids=stop_ids)
    return [Request(prompts[0] if same else ids, params, key, limit) for key, ids in enumerate(prompts)]


def run(loop, wanted):
    found = loop.burst(wanted, ())
    while loop.busy:
        found += loop.burst([], ())
    return {request.key: (ids, logps) for request, ids, logps in found}


class Spy:
    """Stands in for the model and notes the shape of every forward."""

    def __init__(self, lm):
        self._lm, self.shapes = lm, []

    def __getattr__(self, name):
        return getattr(self._lm, name)

    def hidden(self, ids_BL, *args, **kwargs):
        self.shapes.append(tuple(ids_BL.shape))
        return self._lm.hidden(ids_BL, *args, **kwargs)


def test_a_group_is_prefilled_once_and_finished_rows_are_not_forwarded(lm):
    spy = Spy(lm)
    wanted = requests(8, same=True)
    wanted = [Request(r.ids, r.params, r.key, 1 + r.key // 2) for r in wanted]
    run(DecodeLoop(spy, max_slots=8, kv_budget_tokens=10_000), wanted)
    length = len(wanted[0].ids)
    assert spy.shapes == [(1, length), (6, 1), (4, 1), (2, 1)]


def test_slots_bound_the_rows_and_the_line_is_first_come_first_served(lm):
    spy = Spy(lm)
    loop = DecodeLoop(spy, max_slots=3, kv_budget_tokens=10_000)
    wanted = requests(8, limit=4)
    order = [request.key for request, _, _ in loop.burst(wanted, ())]
    while loop.busy:
        order += [request.key for request, _, _ in loop.burst([], ())]
    assert order == list(range(8))
    assert max(rows for rows, length in spy.shapes if length == 1) == 3


def test_the_budget_counts_every_row_as_the_longest_one(lm):
    spy = Spy(lm)
    wanted = [Request((5,) * 10, SamplingParams(7, ()), key, 7) for key in range(6)]
    run(DecodeLoop(spy, max_slots=100, kv_budget_tokens=2 * wanted[0].span + 1), wanted)
    assert max(rows for rows, length in spy.shapes if length == 1) == 2


@pytest.mark.parametrize("slots", [1, 4, 7])
def test_fewer_slots_give_the_same_samples(lm, slots):
    wanted = requests(20, limit=12, stop_ids=(3, 4, 5, 6, 7, 8))
    plenty = run(DecodeLoop(lm, max_slots=100, kv_budget_tokens=10_000), wanted)
    scarce = run(DecodeLoop(lm, max_slots=slots, kv_budget_tokens=10_000), wanted)
    assert len({len(ids) for ids, _ in plenty.values()}) > 4
    for key, (ids, logps) in plenty.items():
        assert scarce[key][0] == ids
        assert scarce[key][1] == pytest.approx(logps, abs=1e-5)


def test_large_logits_are_sampled_in_portions_with_the_same_result(lm, monkeypatch):
    wanted = requests(9)
    params = SamplingParams(6, (), top_k=9, repetition_penalty=1.3)
    wanted += [Request(request.ids, params, request.key + 100, 6) for request in wanted]
    whole = run(DecodeLoop(lm, max_slots=100, kv_budget_tokens=10_000), wanted)
    monkeypatch.setattr("rnow_core.models.decode_loop.CHUNK_LOGITS", 5 * 97)
    cut = run(DecodeLoop(lm, max_slots=100, kv_budget_tokens=10_000), wanted)
    assert {key: ids for key, (ids, _) in cut.items()} == {key: ids for key, (ids, _) in whole.items()}


def test_replies_outgrow_the_first_columns_and_the_first_capacity(lm):
    (only,) = run(DecodeLoop(lm, max_slots=2, kv_budget_tokens=10_000), requests(1, limit=200)).values()
    full = torch.tensor([[*requests(1)[0].ids, *only[0]]])
    logp = lm.head.logits(lm.hidden(full))[0].log_softmax(-1)[-201:-1]
    expected = logp.gather(1, torch.tensor(only[0])[:, None]).squeeze(1)
    assert len(only[0]) == 200
    assert only[1] == pytest.approx(expected.tolist(), abs=1e-4)


def test_prefill_batches_cover_every_prompt_within_bounds():
    rng = random.Random(0)
    prompts = [tuple(range(rng.randint(1, 3000))) for _ in range(60)] + [tuple(range(PREFILL_TOKENS + 5))]
    batches = [*prefill_batches(prompts)]
    assert sorted(prompt for batch in batches for prompt in batch) == sorted(prompts)
    for batch in batches:
        longest = max(map(len, batch))
        assert len(batch) == 1 or len(batch) * longest <= PREFILL_TOKENS
        assert longest <= min(map(len, batch)) * 5 // 4 + 8
