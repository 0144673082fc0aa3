"""The vLLM form of the Sampler seam: many requests in flight, a new version every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rnow_core.errors import RnowError
from rnow_core.models.filters import check_params
from rnow_core.models.vllm_adapters import ServedAdapters
from rnow_core.models.vllm_completion import PATH, completion_body, read_completion
from rnow_core.models.vllm_http import VLLMClient
from rnow_core.models.vllm_versions import Served, Versions
from rnow_core.types import AdapterVersion, Completion, SamplingParams


class VLLMSampler:
    """Samples from the base model `base` of a server until `use` names a version.

    `versions` is how the server holds them: adapters by default, `ServedWeights` for whole models. `context_window`
    is the server's max_model_len and `vocab_size` the model's rows (None: not checked here).
    The client stays the caller's, to be closed after the sampler.
    """

    def __init__(
        self,
        client: VLLMClient,
        *,
        context_window: int,
        vocab_size: int | None = None,
        base: str = "base",
        versions: Versions | None = None,
    ) -> None:
        self._client = client
        self._window, self._vocab = context_window, vocab_size
        self._versions: Versions = versions or ServedAdapters(client, base)

    def ask_for(self, name: str) -> None:
        """Call the server's base model `name` from now on, as the probe found it."""
        self._versions.ask_for(name)

    async def sample(self, ids: Sequence[int], params: SamplingParams, key: int) -> Completion:
        """Sample one completion behind `ids`; `key` (64 bit) seeds it. Logprobs are raw, at temperature 1.

        A request keeps the version that was current when it was made, also when it is sent again, and the answer
        names the version that it is from: a server that lost whole weights may get the next one's meanwhile.

        Raises:
            RnowError: parameters out of range, or a prompt that leaves no room in the context window.
            RunFailed: the server refuses, keeps failing, or answers what does not fit the request.
        """
        self._check(ids, params)
        fitting = replace(params, max_tokens=min(params.max_tokens, self._window - len(ids)))
        server = str(self._client.endpoint)

        async def ask(served: Served) -> Completion:
            body = completion_body(served.model, ids, fitting, key, served.salt)
            return await self._client.post(
                PATH, body, lambda answer: read_completion(answer, body, params, served.name, server)
            )

        return await self._versions.run(ask)

    async def use(self, version: AdapterVersion) -> None:
        """Load the version's folder and sample new requests from it.

        Requests in flight end with the version that they began with: adapters are loaded beside it, whole models
        when the last of them is answered.

        Raises:
            RunFailed: the server cannot load the folder; nothing is sampled from weights in between.
        """
        await self._versions.switch(version)

    async def close(self) -> None:
        """Free what the sampler holds; the client and the server go on."""
        await self._versions.close()

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
