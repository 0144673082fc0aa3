"""The vLLM form of the Teacher seam: prompt logprobs of the ids that the student sampled."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.vllm_completion import FLOOR, PATH
from rnow_core.models.vllm_http import VLLMClient
from rnow_core.types import ScoreRequest


class TokenGate:
    """Lets requests through while their tokens together fit `limit`; a larger one goes alone."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, tokens: int) -> AsyncIterator[None]:
        """Wait for room, and keep it for as long as the context is open."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._held or self._held + tokens <= self._limit)
            self._held += tokens
        try:
            yield
        finally:
            self._held -= tokens
            async with self._changed:
                self._changed.notify_all()


class VLLMTeacher:
    """Scores with model `model` of a server: a teacher of its own, or with `base` the student's base weights.

    vLLM holds the logits of all prompt tokens of a scheduler step in float32 (tokens x vocabulary, outside its
    memory plan), so the server's `--max-num-batched-tokens` must be small; `tokens_in_flight` bounds what waits
    there. `vocab_size` is the teacher's rows, None to leave the check to the server.

    `unit` is "step" on the student's own server: scoring would take the sampler's time, and vLLM's CPU kernels
    give requests for the base weights the last adapter's as soon as both are in one batch.
    """

    def __init__(
        self,
        client: VLLMClient,
        *,
        context_window: int,
        model: str = "base",
        vocab_size: int | None = None,
        tokens_in_flight: int = 1 << 16,
        unit: Literal["group", "step"] = "group",
    ) -> None:
        self.unit = unit
        self._client, self._model = client, model
        self._window, self._vocab = context_window, vocab_size
        self._gate = TokenGate(tokens_in_flight)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One list a request: log p of ids[start:], in order, at temperature 1 over the whole vocabulary.

        Raises:
            RnowError: an id beyond the teacher's rows, or a sequence longer than the server takes.
            RunFailed: the server refuses, keeps failing, or its answer does not fit.
        """
        for number, request in enumerate(requests):
            self._check(number, request)
        tasks = [asyncio.ensure_future(self._score(request)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def close(self) -> None:
        """Nothing to free: the client is the caller's."""

    async def _score(self, request: ScoreRequest) -> list[float]:
        if request.start == len(request.ids):
            return []
        server = str(self._client.endpoint)
        async with self._gate.hold(len(request.ids)):
            return await self._client.post(
                PATH,
                scoring_body(self._model, request.ids),
                lambda answer: given_logprobs(answer["choices"][0].get("prompt_logprobs"), request, server),
            )

    def _check(self, number: int, request: ScoreRequest) -> None:
        if not 1 <= request.start <= len(request.ids):
            raise ValueError(
                f"score request {number}: start is {request.start}, expected 1 to {len(request.ids)} (its ids)"
            )
        if self._vocab is not None and max(request.ids) >= self._vocab:
            raise RnowError(
                f"scoring: id {max(request.ids)} is beyond the {self._vocab} rows of {self._client.endpoint}",
                "student and teacher must share one tokenizer, with a row for every id in use",
            )
        if len(request.ids) >= self._window:
            raise RnowError(
                f"a sequence to score has {len(request.ids)} tokens, {self._client.endpoint} takes at most "
                f"{self._window - 1}: its --max-model-len is {self._window} and it samples one token more",
                "start the teacher's server with a larger --max-model-len, or lower rollout.max_tokens",
            )


def scoring_body(model: str, ids: Sequence[int]) -> dict[str, Any]:
    """Ask for the logprob of every given id. One token must be sampled; it is thrown away."""
    return {
        "model": model,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0.0,
        "ignore_eos": True,
        "prompt_logprobs": 0,
        "add_special_tokens": False,
        "stream": False,
    }


def given_logprobs(entries: Any, request: ScoreRequest, server: str) -> list[float]:
    """Log p of ids[start:] out of `prompt_logprobs`: entry t belongs to ids[t] given ids[:t], the first is null.

    An entry maps ids to logprobs: the given id always, the most likely ones where those were asked for too. So it
    is read by id, never by order or rank.
    """
    if not isinstance(entries, list) or len(entries) != len(request.ids):
        got = f"{len(entries)} entries" if isinstance(entries, list) else type(entries).__name__
        raise RunFailed(
            f"{server} sent {got} as prompt_logprobs, expected {len(request.ids)} entries",
            "the server must be vLLM with prompt_logprobs allowed",
        )
    if entries[0] is not None:
        raise RunFailed(f"{server} sent a logprob for the first id, which has none before it")
    return [
        _given(entries[position], request.ids[position], position, server)
        for position in range(request.start, len(request.ids))
    ]


def _given(entry: Any, token: int, position: int, server: str) -> float:
    found = entry.get(str(token)) if isinstance(entry, dict) else None
    if found is None:
        held = sorted(entry) if isinstance(entry, dict) else entry
        raise RunFailed(f"{server}: the logprob of id {token} at position {position} is missing, got {held}")
    value = float(found["logprob"])
    if not math.isfinite(value) or value <= FLOOR:
        raise RunFailed(
            f"{server}: the logprob of id {token} at position {position} is {value}, expected a finite number",
            "the teacher gives this id no probability at all: its weights are broken, or its vocabulary is another",
        )
    if any(other["logprob"] > value for other in entry.values()) and found.get("rank") == 1:
        raise RunFailed(f"{server}: id {token} at position {position} has rank 1 and not the largest logprob")
    return value
