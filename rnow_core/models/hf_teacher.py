"""A teacher held by transformers on this machine: a model of its own, or the student with its adapter off."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.device import DeviceThread
from rnow_core.models.microbatch import token_budget
from rnow_core.models.scoring import TokenLogprobs, score
from rnow_core.types import ScoreRequest


class HFTeacher:
    """Scores a whole step at once, since it shares the device with the sampler.

    With `base_of_student` the teacher is the base model below the student's adapter (`teacher.path: self`):
    the adapter is off while it scores, and no second model is in memory.
    """

    unit: Literal["group", "step"] = "step"

    def __init__(
        self,
        lm: CausalLM,
        device: DeviceThread,
        *,
        token_logprobs: TokenLogprobs,
        micro_batch_tokens: int | None = None,
        base_of_student: bool = False,
    ) -> None:
        self._lm = lm
        self._device = device
        self._token_logprobs = token_logprobs
        self._budget = token_budget(micro_batch_tokens, lm.device.type)
        self._base_of_student = base_of_student
        with self._weights():
            pass  # an adapter that cannot be switched off shall be an error now, not at step 1

    async def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One list a request: log p of ids[start:], in order."""
        return await self._device.run(self._score, requests)

    async def close(self) -> None:
        """Nothing to free: the weights go with the object."""

    def _score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        with self._weights():
            return score(self._lm, requests, self._token_logprobs, self._budget)

    def _weights(self) -> AbstractContextManager[None]:
        return self._lm.adapter_off() if self._base_of_student else nullcontext()
