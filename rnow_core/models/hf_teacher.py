"""A teacher held by transformers on this machine: a model of its own, or the student wearing something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from rnow_core.errors import RunFailed
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.device import DeviceThread
from rnow_core.models.microbatch import token_budget
from rnow_core.models.prefix_cache import PrefixScorer
from rnow_core.models.scoring import TokenLogprobs
from rnow_core.models.signal_scoring import TopLogprobs, score_with_signal
from rnow_core.types import ScoreRequest, SignalScore, SignalWish

Wearing = Callable[[], AbstractContextManager[None]]
"""Inside the context the model is the teacher: its adapter off, another one on, or averaged weights in place."""


class HFTeacher:
    """Scores a whole step at once, since it shares the device with the sampler.

    `wearing` makes the student's model the teacher while it scores, without a second one in memory
    (`CausalLM.adapter_off` for `teacher.path: self`). `frozen` says that the teacher's weights never change: then the
    keys and values of a context stay from step to step. `top_logprobs` (of algo/) is needed for signals only.
    """

    unit: Literal["group", "step"] = "step"

    def __init__(
        self,
        lm: CausalLM,
        device: DeviceThread,
        *,
        token_logprobs: TokenLogprobs,
        top_logprobs: TopLogprobs | None = None,
        micro_batch_tokens: int | None = None,
        wearing: Wearing = nullcontext,
        frozen: bool = False,
    ) -> None:
        self._device = device
        self._wearing = wearing
        self._lm, self._token_logprobs, self._top_logprobs = lm, token_logprobs, top_logprobs
        self._budget = token_budget(micro_batch_tokens, lm.device.type)
        self._scorer = PrefixScorer(lm, token_logprobs, self._budget, keep=frozen)
        with wearing():
            pass  # an adapter that cannot be switched off shall be an error now, not at step 1

    async def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One list a request: log p of ids[start:], in order."""
        return await self._device.run(self._score, requests)

    async def score_with_signal(
        self, requests: Sequence[ScoreRequest], wish: SignalWish
    ) -> list[SignalScore]:
        """The same, with what is wished for at every position of ids[start:], in main memory."""
        return await self._device.run(self._score_with_signal, requests, wish)

    async def close(self) -> None:
        """Forget kept keys and values; the weights go with the object."""
        self._scorer.drop()

    def _score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        with self._wearing():
            try:
                return self._scorer.score(requests)
            except RunFailed:  # out of memory: once more without what was kept
                if not self._scorer.drop():
                    raise
            return self._scorer.score(requests)

    def _score_with_signal(self, requests: Sequence[ScoreRequest], wish: SignalWish) -> list[SignalScore]:
        if self._top_logprobs is None:
            raise ValueError("this teacher was made without top_logprobs")
        self._scorer.drop()
        with self._wearing():
            return score_with_signal(
                self._lm, requests, wish, self._token_logprobs, self._top_logprobs, self._budget
            )
