"""Scores of given ids as one float32 array: the answer of newer vLLM servers, far smaller than JSON entries.

The route is closed unless the server was started with `--enable-scale-out`, and it scores only on vLLM's V2 model
runner, which needs a GPU. A server elsewhere may be older still, so `probe_binary` asks each one.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from rnow_core.errors import RunFailed
from rnow_core.models.vllm_http import ServerError, VLLMClient
from rnow_core.models.vllm_scores import checked_logprob
from rnow_core.types import ScoreRequest

GENERATE = "/inference/v1/generate"


async def probe_binary(client: VLLMClient, model: str) -> bool:
    """True when the server scores three ids in this form; a server that cannot refuses before it computes.

    Raises:
        ServerError: no answer at all, or the key is not accepted.
    """
    request = ScoreRequest((1, 2, 3), 1)
    try:
        await client.post(
            GENERATE,
            binary_body(model, request),
            lambda answer: decode_scores(answer, request, str(client.endpoint)),
            retry_5xx=False,
        )
    except ServerError as error:
        if error.status in (None, 401):
            raise
        return False
    except RunFailed:
        return False
    return True


def binary_body(model: str, request: ScoreRequest) -> dict[str, Any]:
    """Ask for log p of ids[start:]. One token must be sampled; it is thrown away.

    vLLM counts rows by what they are computed from: row r predicts ids[r + 1], so the first one is start - 1.
    """
    return {
        "model": model,
        "token_ids": list(request.ids),
        "sampling_params": {
            "max_tokens": 1,
            "temperature": 0.0,
            "ignore_eos": True,
            "detokenize": False,
            "prompt_logprob_token_ids": [[token] for token in request.ids[request.start :]],
            "prompt_logprob_start": request.start - 1,
        },
        "stream": False,
    }


def decode_scores(answer: Any, request: ScoreRequest, server: str) -> list[float]:
    """Log p of ids[start:] out of an answer to `binary_body`: base64 of a .npy file, float32 of shape (rows, 1).

    Raises:
        RunFailed: no such array, another shape, or a value that is not finite.
    """
    encoded = answer.get("prompt_token_id_logprobs") if isinstance(answer, dict) else None
    if not isinstance(encoded, str):
        raise RunFailed(
            f"{server} sent no prompt_token_id_logprobs",
            "this server cannot score in binary form: rnow's JSON form works with every vLLM",
        )
    scores = _array(encoded, server)
    expected = (len(request.ids) - request.start, 1)
    if scores.shape != expected or scores.dtype != np.float32:
        raise RunFailed(
            f"{server} sent scores of shape {scores.shape} and type {scores.dtype}, expected {expected}, float32"
        )
    return [
        checked_logprob(value, request.ids[position], position, server)
        for position, value in enumerate(scores[:, 0].tolist(), request.start)
    ]


def _array(encoded: str, server: str) -> np.ndarray[Any, Any]:
    try:
        content = io.BytesIO(base64.b64decode(encoded, validate=True))
        array: np.ndarray[Any, Any] = np.lib.format.read_array(content, allow_pickle=False)  # type: ignore[no-untyped-call]
    except (ValueError, EOFError) as error:
        raise RunFailed(f"{server} sent scores that are no .npy array: {error}") from error
    return array
