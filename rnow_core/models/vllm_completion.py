"""The body of a sampling request to vLLM, and how its answer is read: ids in, ids and logprobs out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rnow_core.errors import RunFailed
from rnow_core.models.vllm_http import TryAgain
from rnow_core.types import Completion, SamplingParams, StopReason

PATH = "/v1/completions"
FLOOR = -9999.0
"""vLLM writes this where a logprob is minus infinity, which JSON cannot hold."""

SEED_BITS = (1 << 63) - 1


def completion_body(
    model: str, ids: Sequence[int], params: SamplingParams, key: int, salt: str
) -> dict[str, Any]:
    """Every sampling parameter explicit, so that no generation_config.json and no default has a say.

    `ignore_eos` leaves stopping to `stop_token_ids` alone. `salt` separates prefix caches: the keys and values
    of one adapter version must never serve another.
    """
    return {
        "model": model,
        "prompt": list(ids),
        "max_tokens": params.max_tokens,
        "min_tokens": 0,
        "n": 1,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": key & SEED_BITS,
        "ignore_eos": True,
        "stop": [],
        "stop_token_ids": list(params.stop_ids),
        "logprobs": 0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
        "add_special_tokens": False,
        "cache_salt": salt,
        "stream": False,
    }


def read_completion(
    answer: Any, body: dict[str, Any], params: SamplingParams, policy: str, server: str
) -> Completion:
    """The sampled ids, a stop id included, and the raw logprobs at temperature 1.

    `params` are the caller's; `body` may ask for fewer tokens, where the context window ends.

    Raises:
        TryAgain: the server aborted the request, as it does when it is shut down or put to sleep.
        RunFailed: the answer does not belong to the request, or a logprob is not finite.
    """
    choice = answer["choices"][0]
    reason = choice["finish_reason"]
    if reason not in ("stop", "length"):
        raise TryAgain(f"the server ended the request with finish_reason {reason!r}")
    if answer["model"] != body["model"]:
        raise RunFailed(f"{server} answered for model {answer['model']!r}, expected {body['model']!r}")
    _same(answer["usage"]["prompt_tokens"], len(body["prompt"]), "prompt ids", server)
    ids = _field(choice, "token_ids", server)
    logprobs = _field(choice.get("logprobs") or {}, "token_logprobs", server)
    _same(len(logprobs), len(ids), "logprobs for the sampled ids", server)
    _check_finite(logprobs, server)
    stop = _stop_reason(reason, ids, body["max_tokens"], params, server)
    return Completion(tuple(ids), tuple(logprobs), stop, policy)


def _stop_reason(reason: str, ids: list[int], limit: int, params: SamplingParams, server: str) -> StopReason:
    if reason == "stop":
        if not ids or ids[-1] not in params.stop_ids:
            raise RunFailed(
                f"{server} stopped at id {ids[-1:]}, expected one of the stop ids {list(params.stop_ids)}",
                "start the server with --generation-config vllm and without stop strings of its own",
            )
        return "stop"
    if not 1 <= len(ids) <= limit:
        raise RunFailed(f"{server} returned {len(ids)} ids, expected 1 to {limit}")
    return "length" if len(ids) == params.max_tokens else "context"


def _field(holder: dict[str, Any], name: str, server: str) -> list[Any]:
    value = holder.get(name)
    if not isinstance(value, list):
        raise RunFailed(
            f"{server} sent no {name} with a completion, got {type(value).__name__}",
            "rnow needs vLLM's return_token_ids and logprobs: use vLLM 0.11 or newer",
        )
    return value


def _same(got: int, expected: int, what: str, server: str) -> None:
    if got != expected:
        raise RunFailed(f"{server} counts {got} {what}, expected {expected}")


def _check_finite(logprobs: Sequence[float | None], server: str) -> None:
    bad = sum(value is None or not math.isfinite(value) or value <= FLOOR for value in logprobs)
    if bad:
        raise RunFailed(
            f"{server}: {bad} of {len(logprobs)} logprobs of sampled tokens are not finite numbers",
            "the weights hold NaN or infinity: lower trainer.learning_rate, or check the model folder",
        )
