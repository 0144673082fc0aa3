"""The vLLM form of the Teacher seam: prompt logprobs of the ids that the student sampled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.signals import top_signal
from rnow_core.models.vllm_binary import GENERATE, binary_body, decode_scores
from rnow_core.models.vllm_completion import PATH
from rnow_core.models.vllm_http import ServerError, VLLMClient
from rnow_core.models.vllm_scores import given_logprob, scored_entries
from rnow_core.models.vllm_topk import TopScores, check_top, read_top
from rnow_core.types import ScoreRequest, SignalScore, SignalWish

T = TypeVar("T")
ENTRIES_IN_FLIGHT = 1 << 20
"""JSON objects of the most likely ids that wait here or in the server at once."""


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
    there. `vocab_size` is the teacher's rows, None to leave the check to the server (`top` should know it: to ask for
    more ids than there are ends a server). `max_logprobs` is the server's flag of that name, None where it is not
    known. With `binary` scores come as one array (vllm_binary), for servers where `probe_binary` said yes.

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
        max_logprobs: int | None = None,
        tokens_in_flight: int = 1 << 16,
        unit: Literal["group", "step"] = "group",
        binary: bool = False,
    ) -> None:
        self.unit = unit
        self._client, self._model, self._binary = client, model, binary
        self._window, self._vocab, self._max_logprobs = context_window, vocab_size, max_logprobs
        self._gate, self._entries = TokenGate(tokens_in_flight), TokenGate(ENTRIES_IN_FLIGHT)

    def ask_for(self, model: str, *, binary: bool = False) -> None:
        """What the probe found: the server's name for the model, and whether it answers with a binary array."""
        self._model, self._binary = model, binary

    async def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One list a request: log p of ids[start:], in order, at temperature 1 over the whole vocabulary.

        Raises:
            RnowError: an id beyond the teacher's rows, or a sequence longer than the server takes.
            RunFailed: the server refuses, keeps failing, or its answer does not fit.
        """
        self._check_all(requests)
        return await _each(requests, self._score)

    async def top(self, requests: Sequence[ScoreRequest], k: int) -> list[TopScores]:
        """One record a request: the `k` most likely ids of every position of ids[start:], and the sampled ones.

        The server sends k entries for every id, those before `start` included.

        Raises:
            RnowError: as `score`; or k is more than the server, its vocabulary or the volume of JSON allow.
            RunFailed: as `score`.
        """
        self._check_all(requests)
        tokens = sum(len(request.ids) for request in requests)
        check_top(k, tokens, self._server, max_logprobs=self._max_logprobs, vocab_size=self._vocab)
        return await _each(requests, lambda request: self._top(request, k))

    async def score_with_signal(
        self, requests: Sequence[ScoreRequest], wish: SignalWish
    ) -> list[SignalScore]:
        """`top` as the learner takes it. A server gives no hidden states: ValueError where they are wished for."""
        if wish.top is None:
            raise ValueError("a server gives no hidden states")
        found = await self.top(requests, wish.top)
        return [
            SignalScore(
                scores.sampled_N.tolist(),
                top_signal(scores.ids_NK, scores.logprobs_NK, scores.sampled_N, request),
            )
            for scores, request in zip(found, requests, strict=True)
        ]

    async def close(self) -> None:
        """Nothing to free: the client is the caller's."""

    @property
    def _server(self) -> str:
        return str(self._client.endpoint)

    async def _score(self, request: ScoreRequest) -> list[float]:
        if request.start == len(request.ids):
            return []
        async with self._gate.hold(len(request.ids)):
            if self._binary:
                body = binary_body(self._model, request)
                return await self._client.post(
                    GENERATE, body, lambda answer: decode_scores(answer, request, self._server)
                )
            body = scoring_body(self._model, request.ids)
            return await self._client.post(
                PATH, body, lambda answer: given_logprobs(_prompt_logprobs(answer), request, self._server)
            )

    async def _top(self, request: ScoreRequest, k: int) -> TopScores:
        if request.start == len(request.ids):
            return read_top([], request, k, self._server)

        def read(answer: Any) -> TopScores:
            found = scored_entries(_prompt_logprobs(answer), request, self._server)
            return read_top(found, request, k, self._server)

        count = len(request.ids)
        async with self._gate.hold(count), self._entries.hold(count * k):
            try:
                return await self._client.post(PATH, scoring_body(self._model, request.ids, k), read)
            except ServerError as error:
                if error.status != 400 or "logprobs" not in error.message:
                    raise
                hint = f"start it with --max-logprobs {k} or more, or lower algorithm.topk"
                raise RunFailed(f"the {k} most likely ids are refused: {error.message}", hint) from error

    def _check_all(self, requests: Sequence[ScoreRequest]) -> None:
        for number, request in enumerate(requests):
            self._check(number, request)

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


async def _each(requests: Sequence[ScoreRequest], work: Callable[[ScoreRequest], Awaitable[T]]) -> list[T]:
    """All requests at once; the first error ends the others."""
    tasks = [asyncio.ensure_future(work(request)) for request in requests]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def scoring_body(model: str, ids: Sequence[int], top: int = 0) -> dict[str, Any]:
    """Ask for the logprob of every given id and of the `top` most likely. One token must be sampled, for nothing."""
    return {
        "model": model,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0.0,
        "ignore_eos": True,
        "prompt_logprobs": top,
        "add_special_tokens": False,
        "stream": False,
    }


def given_logprobs(entries: Any, request: ScoreRequest, server: str) -> list[float]:
    """Log p of ids[start:] out of `prompt_logprobs`.

    An entry maps ids to logprobs: the given id always, the most likely ones where those were asked for too. So it
    is read by id, never by order or rank.
    """
    found = scored_entries(entries, request, server)
    tokens = request.ids[request.start :]
    return [
        given_logprob(entry, token, position, server)
        for position, (entry, token) in enumerate(zip(found, tokens, strict=True), request.start)
    ]


def _prompt_logprobs(answer: Any) -> Any:
    return answer["choices"][0].get("prompt_logprobs")
