"""The vLLM form of the Sampler seam: many requests in flight, a new adapter version every step."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rnow_core.errors import RnowError
from rnow_core.models.filters import check_params
from rnow_core.models.vllm_adapters import Served, ServedAdapters
from rnow_core.models.vllm_completion import PATH, completion_body, read_completion
from rnow_core.models.vllm_http import ServerError, VLLMClient
from rnow_core.types import AdapterVersion, Completion, SamplingParams


class VLLMSampler:
    """Samples from the base model `base` of a server until `use` names an adapter.

    `context_window` is the server's max_model_len and `vocab_size` the model's rows (None: not checked here).
    The client stays the caller's, to be closed after the sampler.
    """

    def __init__(
        self,
        client: VLLMClient,
        *,
        context_window: int,
        vocab_size: int | None = None,
        base: str = "base",
    ) -> None:
        self._client = client
        self._window, self._vocab = context_window, vocab_size
        self._adapters = ServedAdapters(client, base)
        # another run on the same server may have used the same version names for other weights
        self._salt = secrets.token_hex(8)

    async def sample(self, ids: Sequence[int], params: SamplingParams, key: int) -> Completion:
        """Sample one completion behind `ids`; `key` (64 bit) seeds it. Logprobs are raw, at temperature 1.

        A request keeps the version that was current when it was made, also when it is sent again.

        Raises:
            RnowError: parameters out of range, or a prompt that leaves no room in the context window.
            RunFailed: the server refuses, keeps failing, or answers what does not fit the request.
        """
        self._check(ids, params)
        served = self._adapters.current
        room = self._window - len(ids)
        body = completion_body(
            served.name,
            ids,
            replace(params, max_tokens=min(params.max_tokens, room)),
            key,
            f"{served.name}-{self._salt}",
        )
        with served.request():
            try:
                return await self._post(body, params, served)
            except ServerError as error:
                if error.status != 404 or served.path is None:
                    raise
                await self._adapters.restore(served)
                return await self._post(body, params, served)

    async def use(self, version: AdapterVersion) -> None:
        """Load the version's folder under its name and sample new requests from it.

        Waits for requests of the version before the last one; the last one's go on undisturbed.

        Raises:
            RunFailed: the server cannot load the folder; the version before stays in use.
        """
        await self._adapters.switch(version)

    async def close(self) -> None:
        """Free what the sampler holds; the client and the server go on."""
        await self._adapters.close()

    async def _post(self, body: dict[str, Any], params: SamplingParams, served: Served) -> Completion:
        server = str(self._client.endpoint)
        return await self._client.post(
            PATH, body, lambda answer: read_completion(answer, body, params, served.name, server)
        )

    def _check(self, ids: Sequence[int], params: SamplingParams) -> None:
        check_params(params)
        if not ids:
            raise RnowError("the prompt is empty, expected at least one token")
        if self._vocab is not None and max(ids) >= self._vocab:
            raise RnowError(
                f"prompt: id {max(ids)} is beyond the {self._vocab} rows of the student",
                "the tokenizer must be the model's own",
            )
        if len(ids) >= self._window:
            raise RnowError(
                f"the prompt has {len(ids)} tokens, expected at most {self._window - 1}: the context window of "
                f"{self._client.endpoint} is {self._window} and the reply needs a token",
                "shorten the prompt, or start the server with a larger --max-model-len",
            )
