"""What a teacher wears: a frozen adapter, alone or beside the student's, and the average of the student's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import peft
import pytest
import torch
from learner_reference import CPU, make_batch, student
from test_teacher import naive, requests
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM

from rnow_core.algo.head import token_logprobs
from rnow_core.errors import RnowError
from rnow_core.models.adapter import write_adapter
from rnow_core.models.averaged_adapter import AveragedAdapter
from rnow_core.models.causal_lm import CausalLM, load_frozen, load_student
from rnow_core.models.device import DeviceThread
from rnow_core.models.frozen_adapter import wear
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.hf_sampler import HFSampler
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.scoring import score
from rnow_core.models.teacher_sampler import TeacherSampler
from rnow_core.types import SamplingParams

DECAY = 0.7


@pytest.fixture
def device():
    thread = DeviceThread(threads=1)
    yield thread
    thread.close()


@pytest.fixture(scope="module")
def worn(model_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an adapter of rank 3, and the model that it makes of the base when merged."""
    folder, merged = tmp_path_factory.mktemp("adapter"), tmp_path_factory.mktemp("merged")
    lm = student(model_folder(), seed=8, rank=3, alpha=9.0)
    write_adapter(lm.peft, folder, lm.name)
    base = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float64)
    peft.PeftModel.from_pretrained(base, str(folder)).merge_and_unload().save_pretrained(merged)
    return folder, str(merged)


def assert_scores(teacher: HFTeacher, model: str) -> None:
    got = asyncio.run(teacher.score(requests()))
    for row, request in zip(got, requests(), strict=True):
        assert row == pytest.approx(naive(model, request), abs=5e-5)


def test_the_student_wears_a_frozen_adapter_of_another_rank_while_the_teacher_scores(
    worn: tuple[Path, str],
    model_folder: Callable[..., str],
    device: DeviceThread,
    learner: Callable[..., HFLearner],
) -> None:
    lm = student(model_folder(), rank=4)
    before, names = score(lm, requests(), token_logprobs, 500), [*lm.trainable_parameters()]
    own = learner(lm)
    wearing = wear(lm, worn[0])
    teacher = HFTeacher(lm, device, token_logprobs=token_logprobs, wearing=wearing, frozen=True)
    assert_scores(teacher, worn[1])
    assert score(lm, requests(), token_logprobs, 500) == before
    assert [*lm.trainable_parameters()] == names
    own.update(make_batch(), 1)
    assert score(lm, requests(), token_logprobs, 500) != before
    assert_scores(teacher, worn[1])
    params = SamplingParams(max_tokens=12, stop_ids=())
    sampler = TeacherSampler(lm, device, wearing=wearing, max_slots=4, kv_budget_tokens=500)
    plain = HFSampler(load_frozen(worn[1], dtype="float32", device=CPU), device)
    sampled = [asyncio.run(one.sample((5, 9, 3), params, 7)) for one in (sampler, plain)]
    assert sampled[0].ids == sampled[1].ids
    assert sampled[0].logprobs == pytest.approx(sampled[1].logprobs, abs=5e-5)


def test_another_model_wears_its_adapter_always(
    worn: tuple[Path, str], model_folder: Callable[..., str], device: DeviceThread
) -> None:
    lm = load_frozen(model_folder(), device=CPU)
    wearing = wear(lm, worn[0])
    assert_scores(HFTeacher(lm, device, token_logprobs=token_logprobs, wearing=wearing), worn[1])
    assert lm.trainable_parameters() == {}


def test_folders_that_are_no_adapter_of_this_model(
    worn: tuple[Path, str], model_folder: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(RnowError, match=r"teacher\.adapter: .* has no adapter_config\.json"):
        wear(load_frozen(model_folder(), device=CPU), tmp_path)
    for other in (model_folder(hidden=64), model_folder(layers=1)):
        for lm in (load_frozen(other, device=CPU), load_student(other, rank=2, alpha=4, device=CPU)):
            with pytest.raises(RnowError, match="does not fit"):
                wear(lm, worn[0])
    config = json.loads((worn[0] / "adapter_config.json").read_text())
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((worn[0] / name).read_bytes())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": ["lm_head"]}))
    with pytest.raises(RnowError, match="more than a LoRA adapter"):
        wear(load_frozen(model_folder(), device=CPU), tmp_path)


def averaging(lm: CausalLM, learner: Callable[..., HFLearner], **settings: object) -> HFLearner:
    made = learner(lm, **settings)
    made.average = AveragedAdapter(lm.trainable_parameters(), DECAY)
    return made


@contextmanager
def snapshots(lm: CausalLM) -> Iterator[list[dict[str, torch.Tensor]]]:
    """The weights in float64 behind each optimizer step, which come first as they are."""

    def take(*_: object) -> None:
        taken.append({name: w.detach().double() for name, w in lm.trainable_parameters().items()})

    taken: list[dict[str, torch.Tensor]] = []
    take()
    hook = register_optimizer_step_post_hook(take)
    yield taken
    hook.remove()


def test_the_average_follows_every_optimizer_step_and_is_worn_by_the_teacher_alone(
    model_folder: Callable[..., str], learner: Callable[..., HFLearner], device: DeviceThread
) -> None:
    lm = student(model_folder())
    made = averaging(lm, learner, updates_per_batch=2, learning_rate=0.05)
    made.align()
    with snapshots(lm) as taken:
        for step in (1, 2, 3):
            made.update(make_batch(seed=step), step)
    assert len(taken) == 7
    expected = taken[0]
    for weights in taken[1:]:
        expected = {name: DECAY * expected[name] + (1 - DECAY) * weights[name] for name in expected}
    assert made.average is not None
    with made.average.worn():
        for name, weight in lm.trainable_parameters().items():
            torch.testing.assert_close(weight.double(), expected[name], atol=1e-6, rtol=1e-6)
    for name, weight in lm.trainable_parameters().items():
        assert torch.equal(weight.double(), taken[-1][name])
        assert not torch.allclose(weight.double(), expected[name], atol=1e-3)
    averaged = student(model_folder())
    with torch.no_grad():
        for name, weight in averaged.trainable_parameters().items():
            weight.copy_(expected[name])
    teacher = HFTeacher(lm, device, token_logprobs=token_logprobs, wearing=made.average.worn)
    own = made.logprobs(requests())
    got = asyncio.run(teacher.score(requests()))
    assert got == [pytest.approx(row, abs=2e-5) for row in score(averaged, requests(), token_logprobs, 500)]
    assert made.logprobs(requests()) == own


def test_a_resumed_average_is_byte_identical(
    model_folder: Callable[..., str], learner: Callable[..., HFLearner], tmp_path: Path
) -> None:
    straight, resumed = (averaging(student(model_folder(), seed=seed), learner) for seed in (5, 6))
    for name in ("middle", "straight", "resumed"):
        (tmp_path / name).mkdir()
    for step in (1, 2, 3):
        straight.update(make_batch(seed=step), step)
        if step == 1:
            straight.save(tmp_path / "middle")
    straight.save(tmp_path / "straight")
    resumed.load(tmp_path / "middle")
    for step in (2, 3):
        resumed.update(make_batch(seed=step), step)
    resumed.save(tmp_path / "resumed")
    for file in (tmp_path / "straight").iterdir():
        assert file.read_bytes() == (tmp_path / "resumed" / file.name).read_bytes(), file.name
    (tmp_path / "middle" / "averaged_adapter.safetensors").unlink()
    with pytest.raises(RnowError, match=r"saved without teacher\.ema"):
        resumed.load(tmp_path / "middle")
