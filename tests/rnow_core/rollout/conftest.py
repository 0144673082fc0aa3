"""Real parts around two tiny models."""

import pytest
from tiny import make_model

from rnow_core.algo.head import token_logprobs
from rnow_core.data.renderer import Renderer
from rnow_core.models.causal_lm import load_frozen
from rnow_core.models.device import DeviceThread, pick_device
from rnow_core.models.hf_sampler import HFSampler
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.rollout.parts import RolloutParts
from rnow_core.types import SamplingParams


@pytest.fixture(scope="module")
def tiny_parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    student = load_frozen(str(make_model(folder / "student", seed=1)), device=pick_device())
    teacher = load_frozen(str(make_model(folder / "teacher", seed=2)), device=pick_device())
    device = DeviceThread(1)
    yield RolloutParts(
        renderer=Renderer.load(folder / "student"),
        sampler=HFSampler(student, device),
        teachers={"teacher": HFTeacher(teacher, device, token_logprobs=token_logprobs)},
        rewards=None,
        params=SamplingParams(max_tokens=8, stop_ids=(2,)),
        context_window=128,
        seed=0,
    )
    device.close()
