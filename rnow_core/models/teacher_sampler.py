"""Sampling from a teacher, for its accuracy: the student's model wears something else between two tokens."""

from __future__ import annotations

from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.decode_loop import DecodeLoop, Sampled
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_sampler import HFSampler
from rnow_core.models.hf_teacher import Wearing
from rnow_core.models.rows import Request


class TeacherSampler(HFSampler):
    """`HFSampler` of a model that wears what makes it the teacher (see `HFTeacher`) while it decodes."""

    def __init__(
        self, lm: CausalLM, device: DeviceThread, *, wearing: Wearing, max_slots: int, kv_budget_tokens: int
    ) -> None:
        super().__init__(
            lm, device, version="teacher", max_slots=max_slots, kv_budget_tokens=kv_budget_tokens
        )
        self._wearing = wearing

    def _burst(self, loop: DecodeLoop, arrived: list[Request], dropped: set[Request]) -> list[Sampled]:
        with self._wearing():
            return super()._burst(loop, arrived, dropped)
