"""Reading a completion: every answer that does not belong to its request is an error."""

import pytest

from rnow_core.errors import RunFailed
from rnow_core.models.vllm_completion import completion_body, read_completion
from rnow_core.models.vllm_http import TryAgain
from rnow_core.types import Completion, SamplingParams

PARAMS = SamplingParams(max_tokens=20, stop_ids=(3, 4, 5))
ANSWER = {
    "model": "base",
    "usage": {"prompt_tokens": 2},
    "choices": [{"finish_reason": "stop", "token_ids": [8, 3], "logprobs": {"token_logprobs": [-1.0, -2.0]}}],
}
BODY = {"model": "base", "prompt": [6, 7], "max_tokens": 20}


def read(choice=None, **answer):
    whole = {**ANSWER, **answer, "choices": [{**ANSWER["choices"][0], **(choice or {})}]}
    return read_completion(whole, BODY, PARAMS, "base", "the server")


def test_an_answer_is_read():
    assert read() == Completion((8, 3), (-1.0, -2.0), "stop", "base")


@pytest.mark.parametrize(
    ("choice", "answer", "error", "message"),
    [
        ({"finish_reason": "abort"}, {}, TryAgain, "abort"),
        ({"token_ids": [8, 9]}, {}, RunFailed, r"stopped at id \[9\]"),
        ({"token_ids": [8, 9, 3]}, {}, RunFailed, "counts 2 logprobs for the sampled ids, expected 3"),
        ({"token_ids": None}, {}, RunFailed, "no token_ids"),
        ({"logprobs": {"token_logprobs": [-1.0, -9999.0]}}, {}, RunFailed, "1 of 2 logprobs"),
        (
            {"finish_reason": "length", "token_ids": [], "logprobs": {"token_logprobs": []}},
            {},
            RunFailed,
            "0 ids",
        ),
        ({}, {"model": "student-000001"}, RunFailed, "answered for model 'student-000001'"),
        ({}, {"usage": {"prompt_tokens": 3}}, RunFailed, "counts 3 prompt ids, expected 2"),
    ],
)
def test_an_answer_that_does_not_fit_is_an_error(choice, answer, error, message):
    with pytest.raises(error, match=message):
        read(choice, **answer)


def test_every_sampling_parameter_is_sent_and_seeds_fit_63_bits():
    body = completion_body("base", (6, 7), PARAMS, (1 << 64) - 1, "salt")
    assert body["seed"] == (1 << 63) - 1
    expected = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert expected.items() <= body.items()
    assert body["stop_token_ids"] == [3, 4, 5]
    assert body["ignore_eos"]
