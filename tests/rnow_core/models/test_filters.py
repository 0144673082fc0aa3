import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rnow_core.errors import RnowError
from rnow_core.models.filters import Filters, check_params
from rnow_core.models.sampling import sample
from rnow_core.types import SamplingParams

VOCAB = 50
CPU = torch.device("cpu")
PLAIN = SamplingParams(max_tokens=4, stop_ids=())
MIXED = [
    PLAIN,
    SamplingParams(4, (), temperature=0.6, top_p=0.9),
    SamplingParams(4, (), top_k=7),
    SamplingParams(4, (), min_p=0.2, top_p=0.99),
    SamplingParams(4, (), repetition_penalty=1.7),
    SamplingParams(4, (), temperature=1.4, top_k=20, top_p=0.7, min_p=0.05, repetition_penalty=1.2),
    SamplingParams(4, (), temperature=0.0, repetition_penalty=1.3),
]


def logits():
    return torch.randn(len(MIXED), VOCAB, generator=torch.Generator().manual_seed(0)).mul_(3)


def reference(row_V, params, seen):
    steps = LogitsProcessorList()
    if params.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature not in (0.0, 1.0):
        steps.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        steps.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        steps.append(TopPLogitsWarper(params.top_p))
    if params.min_p > 0.0:
        steps.append(MinPLogitsWarper(params.min_p))
    return steps(torch.tensor([seen]), row_V[None].clone())[0]


def test_rows_with_different_parameters_are_filtered_as_transformers_does():
    logits_RV, seen = logits(), [3, 3, 8, 41]
    filters = Filters.of(MIXED, VOCAB, CPU)
    filters.see_prompts([seen] * len(MIXED))
    filtered = filters.apply(logits_RV)
    for row, params in enumerate(MIXED):
        torch.testing.assert_close(filtered[row], reference(logits_RV[row], params, seen))
    assert torch.equal(filtered[0], logits_RV[0])


def test_default_parameters_need_no_filters():
    assert Filters.of([PLAIN, PLAIN], VOCAB, CPU) is None
    assert Filters.of([SamplingParams(4, (), top_k=VOCAB)], VOCAB, CPU) is None


def test_temperature_zero_takes_the_best_and_mu_stays_raw():
    logits_RV = logits()
    filters = Filters.of(MIXED, VOCAB, CPU)
    uniform = torch.linspace(0.01, 0.99, len(MIXED), dtype=torch.float64)
    ids, logp = sample(logits_RV, uniform, filters)
    assert ids[-1] == logits_RV[-1].argmax()
    raw = logits_RV.log_softmax(-1).gather(1, ids[:, None]).squeeze(1)
    torch.testing.assert_close(logp, raw)
    plain_ids, _ = sample(logits_RV[:1], uniform[:1])
    assert ids[0] == plain_ids[0]


def test_a_far_tail_survives_beside_a_row_with_top_p():
    logits_RV = torch.full((2, VOCAB), -30.0)
    logits_RV[:, 0] = 30.0
    filters = Filters.of([PLAIN, SamplingParams(4, (), top_p=0.5)], VOCAB, CPU)
    kept = filters.apply(logits_RV).isfinite().sum(-1)
    assert kept.tolist() == [VOCAB, 1]


def test_sampled_ids_are_seen_from_then_on():
    filters = Filters.of([SamplingParams(4, (), repetition_penalty=2.0)] * 2, VOCAB, CPU)
    filters.see_prompts([[1], [2]])
    filters.see_sampled(torch.tensor([[5, 0, 0], [6, 7, 0]]), torch.tensor([1, 2]))
    filters.see(torch.tensor([9, 10]))
    assert [row.nonzero().flatten().tolist() for row in filters.seen_RV] == [[1, 5, 9], [2, 6, 7, 10]]


def test_filters_can_be_cut_into_portions():
    logits_RV = logits()
    filters = Filters.of(MIXED, VOCAB, CPU)
    parts = [
        filters.rows(slice(0, 3)).apply(logits_RV[:3]),
        filters.rows(slice(3, None)).apply(logits_RV[3:]),
    ]
    assert torch.equal(torch.cat(parts), filters.apply(logits_RV))


@pytest.mark.parametrize(
    "bad",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
    ],
)
def test_a_parameter_out_of_range_is_named(bad):
    (name,) = bad
    with pytest.raises(RnowError, match=name):
        check_params(SamplingParams(**({"max_tokens": 4, "stop_ids": ()} | bad)))
