"""The transformers form of the Sampler seam: shares the learner's weights, decodes on the device thread.

Requests of one event-loop turn are admitted together, in the order in which they were made. So a step whose
rollouts are started together samples the same bits every time; requests that arrive while others are decoded
join between tokens, at a moment that depends on the clock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import nullcontext

from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.decode_loop import DecodeLoop, Sampled
from rnow_core.models.device import DeviceThread, memory_errors
from rnow_core.models.filters import check_params
from rnow_core.models.rows import Request
from rnow_core.types import AdapterVersion, Completion, SamplingParams, StopReason


class HFSampler:
    """Samples from a `CausalLM`. `base_weights` switches its adapter off, to sample the teacher `self`.

    At most `max_slots` rows are decoded at once, and rows x longest possible row fit `kv_budget_tokens`.
    """

    def __init__(
        self,
        lm: CausalLM,
        device: DeviceThread,
        *,
        version: str = "base",
        max_slots: int = 256,
        kv_budget_tokens: int = 1 << 18,
        base_weights: bool = False,
    ) -> None:
        self._lm, self._device, self._version = lm, device, version
        self._max_slots, self._kv_budget = max_slots, kv_budget_tokens
        self._base_weights = base_weights
        self._futures: dict[Request, asyncio.Future[Completion]] = {}
        self._arrived: list[Request] = []
        self._dropped: set[Request] = set()
        self._loop = self._new_loop()
        self._driver: asyncio.Task[None] | None = None
        self._closed = False

    def _new_loop(self) -> DecodeLoop:
        return DecodeLoop(self._lm, max_slots=self._max_slots, kv_budget_tokens=self._kv_budget)

    async def sample(self, ids: Sequence[int], params: SamplingParams, key: int) -> Completion:
        """Sample one completion behind `ids`; `key` (64 bit) is the only source of randomness.

        RnowError for a prompt that leaves no room in the context window, and for parameters out of range.
        """
        request = self._request(tuple(ids), params, key)
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._futures[request] = future
        self._arrived.append(request)
        self._wake()
        try:
            return await future
        except asyncio.CancelledError:
            self._dropped.add(request)
            self._loop.interrupted = True
            raise
        finally:
            del self._futures[request]

    async def use(self, version: AdapterVersion) -> None:
        """Name the policy of what is sampled from now on; the weights are shared with the learner.

        Waits until no request is in flight, so that every completion has one policy.
        """
        while self._futures:
            await asyncio.wait([*self._futures.values()])
            await asyncio.sleep(0)
        self._version = version.name

    async def close(self) -> None:
        """Cancel what is in flight and free the cache."""
        self._closed = True
        for future in self._futures.values():
            future.cancel()
        if self._driver is not None:
            self._loop.interrupted = True
            await asyncio.wait([self._driver])

    def _request(self, ids: tuple[int, ...], params: SamplingParams, key: int) -> Request:
        if self._closed:
            raise RnowError("the sampler is closed and takes no more requests")
        check_params(params)
        if not ids:
            raise RnowError("the prompt is empty, expected at least one token")
        self._lm.check_ids(max(ids), "prompt")
        window = self._lm.context_window
        if window is not None and len(ids) >= window:
            raise RnowError(
                f"the prompt has {len(ids)} tokens, expected at most {window - 1}: the context window of "
                f"{self._lm.name} is {window} and the reply needs a token",
                "shorten the prompt, or use a model with a larger context window",
            )
        limit = params.max_tokens if window is None else min(params.max_tokens, window - len(ids))
        request = Request(ids, params, key, limit)
        if request.span > self._kv_budget:
            raise RnowError(
                f"a prompt of {len(ids)} tokens and {limit} sampled ones need {request.span} positions, "
                f"the sampler has room for {self._kv_budget}",
                "lower rollout.max_tokens, or shorten the prompt",
            )
        return request

    def _wake(self) -> None:
        self._loop.interrupted = True
        if self._driver is None:
            self._driver = asyncio.create_task(self._drive())

    async def _drive(self) -> None:
        """Decode until nothing is left to do. Whatever goes wrong reaches every waiter."""
        try:
            while await self._step():
                pass
        except Exception as error:
            for future in self._futures.values():
                if not future.done():
                    future.set_exception(error)
        finally:
            for future in self._futures.values():
                future.cancel()
            self._arrived, self._dropped = [], set()
            self._loop.interrupted = True
            # a fresh loop frees the cache, and is whole again after an error
            self._loop, self._driver = self._new_loop(), None

    async def _step(self) -> bool:
        """One burst on the device thread; False when there was nothing to do."""
        await self._settle()
        arrived, dropped = self._arrived, self._dropped
        self._arrived, self._dropped = [], set()
        if not arrived and not self._loop.busy:
            return False
        self._loop.interrupted = False
        for request, ids, logprobs in await self._device.run(self._burst, self._loop, arrived, dropped):
            future = self._futures.get(request)
            if future is not None and not future.done():
                future.set_result(self._completion(request, ids, logprobs))
        return True

    async def _settle(self) -> None:
        """Let the tasks that have just been created or answered make their requests."""
        seen = -1
        while seen != len(self._arrived):
            seen = len(self._arrived)
            await asyncio.sleep(0)

    def _burst(self, loop: DecodeLoop, arrived: list[Request], dropped: set[Request]) -> list[Sampled]:
        adapter = self._lm.adapter_off() if self._base_weights else nullcontext()
        hint = "lower data.batch_size, data.group_size or rollout.max_tokens"
        with adapter, memory_errors("sampling", hint):
            return loop.burst(arrived, dropped)

    def _completion(self, request: Request, ids: list[int], logprobs: list[float]) -> Completion:
        if not all(map(math.isfinite, logprobs)):
            raise RunFailed(
                f"{self._lm.name}: the logprob of a sampled token is not a finite number",
                "the weights hold NaN or infinity: lower trainer.learning_rate, or check the model folder",
            )
        return Completion(tuple(ids), tuple(logprobs), _stop_reason(request, ids), self._version)


def _stop_reason(request: Request, ids: list[int]) -> StopReason:
    if ids[-1] in request.params.stop_ids:
        return "stop"
    return "length" if len(ids) == request.params.max_tokens else "context"
