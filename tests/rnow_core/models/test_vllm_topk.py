"""The teacher's most likely ids from a real vLLM server, compared with transformers' log_softmax."""

import asyncio

import numpy as np
import pytest
import torch
from fault_proxy import proxied
from served_scoring import TOLERANCE, WINDOW, assert_same, log_softmax_of, make_requests, with_client

from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_scores import scored_entries
from rnow_core.models.vllm_teacher import VLLMTeacher
from rnow_core.models.vllm_topk import MAX_ENTRIES, MAX_TOP, check_top, read_top
from rnow_core.types import ScoreRequest

VOCABULARY = 48
REQUEST = ScoreRequest((6, 7, 8), 1)


def served(test):
    return pytest.mark.vllm(pytest.mark.xdist_group("vllm")(test))


def top(served, requests, k, **changes):
    async def work(client):
        teacher = VLLMTeacher(client, context_window=WINDOW, **changes)
        return await teacher.top(requests, k), await teacher.score(requests)

    return with_client(served.socket, work)


def assert_is_top(scores, truth, request, k):
    """`truth` is (N, V). An id must be the true one where no neighbour in the ranking is as near as the tolerance."""
    logprobs, ids = truth.sort(dim=-1, descending=True, stable=True)
    count = len(request.ids) - request.start
    assert scores.ids_NK.shape == scores.logprobs_NK.shape == (count, k)
    np.testing.assert_allclose(scores.logprobs_NK, logprobs[:, :k], atol=TOLERANCE)
    edge = torch.full((count, 1), torch.inf)
    gaps = torch.cat([edge, logprobs[:, :-1] - logprobs[:, 1:], edge], dim=1)
    clear = ((gaps[:, :-1] > 2 * TOLERANCE) & (gaps[:, 1:] > 2 * TOLERANCE))[:, :k].numpy()
    assert clear.mean() > 0.9
    assert (scores.ids_NK == ids[:, :k].numpy())[clear].all()
    sampled = truth.gather(1, torch.tensor(request.ids[request.start :])[:, None])[:, 0]
    np.testing.assert_allclose(scores.sampled_N, sampled, atol=TOLERANCE)


@served
@pytest.mark.parametrize("k", [1, 8, VOCABULARY])
def test_the_most_likely_ids_are_those_of_the_local_model(vllm_teacher, k):
    requests = [request for request in make_requests(6) if request.start < len(request.ids)]
    found, scored = top(vllm_teacher, requests, k)
    for request, scores in zip(requests, found, strict=True):
        assert_is_top(scores, log_softmax_of(vllm_teacher.model_folder, request), request, k)
    assert_same([scores.sampled_N.tolist() for scores in found], scored)


@served
def test_a_position_belongs_to_the_id_before_which_it_was_computed(vllm_teacher):
    """The same rows from any start, an empty record behind the last id, and not the rows one position later."""
    ids = tuple(range(6, 40))
    requests = [ScoreRequest(ids, start) for start in (1, 20, len(ids))]
    (whole, part, empty), _ = top(vllm_teacher, requests, 4)
    np.testing.assert_array_equal(whole.ids_NK[19:], part.ids_NK)
    np.testing.assert_allclose(whole.logprobs_NK[19:], part.logprobs_NK, atol=TOLERANCE)
    assert not np.allclose(whole.logprobs_NK[18:-1], part.logprobs_NK, atol=TOLERANCE)
    assert empty.ids_NK.shape == (0, 4)
    assert empty.sampled_N.shape == (0,)


@served
def test_more_than_the_server_gives_is_refused_before_any_request(vllm_teacher):
    async def main():
        async with proxied(vllm_teacher.socket) as proxy:
            client = VLLMClient(Endpoint("teacher", url=proxy.url))
            teacher = VLLMTeacher(client, context_window=WINDOW, max_logprobs=8)
            with pytest.raises(RnowError, match=r"topk is 9, teacher .* at most 8 ids") as error:
                await teacher.top([REQUEST], 9)
            assert "--max-logprobs 9" in error.value.hint
            asked = sum(proxy.requests.values())
            await teacher.top([REQUEST], 8)
            await client.close()
            return asked, sum(proxy.requests.values())

    assert asyncio.run(main()) == (0, 1)


@served
def test_a_server_that_is_not_known_refuses_itself_and_goes_on(vllm_teacher):
    """The server was started with --max-logprobs 64."""

    async def work(client):
        teacher = VLLMTeacher(client, context_window=WINDOW)
        with pytest.raises(RunFailed, match=r"65 most likely ids are refused.*max allowed: 64") as error:
            await teacher.top([REQUEST], 65)
        assert "--max-logprobs 65" in error.value.hint
        return await teacher.score([REQUEST])

    assert len(with_client(vllm_teacher.socket, work)[0]) == 2


@pytest.mark.parametrize(
    ("k", "tokens", "message", "fix"),
    [
        (MAX_TOP + 1, 1, "topk is 129, .* at most 128 ids", "128 or less"),
        (64, 1, "topk is 64, the server has a vocabulary of 48", "48 or less"),
        (
            40,
            MAX_ENTRIES // 10,
            rf"topk 40 for {MAX_ENTRIES // 10} tokens .* at most {MAX_ENTRIES}",
            "topk to 10",
        ),
    ],
    ids=["k", "vocabulary", "volume"],
)
def test_what_cannot_be_asked_names_both_numbers_and_the_fix(k, tokens, message, fix):
    check_top(10, MAX_ENTRIES // 10, "the server", max_logprobs=None, vocab_size=VOCABULARY)
    with pytest.raises(RnowError, match=message) as error:
        check_top(k, tokens, "the server", max_logprobs=None, vocab_size=VOCABULARY)
    assert fix in error.value.hint


def entry(**logprobs):
    return {name[1:]: {"logprob": value} for name, value in logprobs.items()}


def read(entries, k):
    return read_top(scored_entries([None, *entries], REQUEST, "the server"), REQUEST, k, "the server")


def test_equal_ids_are_ordered_by_number_and_the_order_of_an_entry_means_nothing():
    """The sampled id stands first in vLLM's entries. At the first position 7 is sampled, at the second 8."""
    scores = read(
        [entry(_7=-3.0, _30=-1.5, _9=-1.5, _11=-1.0), entry(_8=-2.0, _40=-2.0, _12=-1.0, _5=-1.0)], k=3
    )
    assert scores.ids_NK.tolist() == [[11, 9, 30], [5, 12, 8]]
    assert scores.logprobs_NK.tolist() == [[-1.0, -1.5, -1.5], [-1.0, -1.0, -2.0]]
    assert scores.sampled_N.tolist() == [-3.0, -2.0]


GOOD = entry(_8=-1.0, _9=-2.0)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (entry(_7=-1.0), "sent 1 ids for position 1, expected 2 or 3"),
        (entry(_7=-5.0, _1=-1.0, _2=-2.0, _3=-3.0), "sent 4 ids for position 1"),
        (entry(_1=-1.0, _2=-2.0), "logprob of id 7 at position 1 is missing"),
        (entry(_7=-1.0, _9=-9999.0), "logprob of id 9 at position 1 is -9999"),
        (entry(_7=2.0, _9=1.0), "probability of 10.107 together"),
        (entry(_7=-1.0, _9=-2.0, _3=-3.0), "position 1 that is neither the sampled one"),
        ({"7": {"logprob": -2.0, "rank": 1}, "9": {"logprob": -1.0, "rank": 2}}, "rank 1"),
    ],
)
def test_an_answer_that_does_not_fit_is_an_error(first, message):
    with pytest.raises(RunFailed, match=message):
        read([first, GOOD], k=2)
