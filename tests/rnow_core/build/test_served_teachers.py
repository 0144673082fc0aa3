"""Beside vLLM servers, a teacher that is the student wearing something scores in the trainer's process."""

import asyncio

from tiny import make_model, tiny_config

from rnow_core.build.fixed import Fixed
from rnow_core.build.placement import Placement
from rnow_core.build.served import ServedEngine
from rnow_core.build.servers import ServerRole
from rnow_core.config.schema import Config
from rnow_core.models.averaged_adapter import AveragedAdapter
from rnow_core.models.causal_lm import load_student
from rnow_core.models.device import DeviceThread, device_named
from rnow_core.types import ScoreRequest

FIXED = Fixed("vllm", "cpu", 1, 2048, False, 0, 4, Placement(sharing="sleep"))


def test_the_trainers_own_copy_scores_and_has_its_turn(tmp_path, monkeypatch):
    folder = make_model(tmp_path / "student", seed=1)
    student = load_student(str(folder), rank=2, alpha=4, device=device_named("cpu"))
    average = AveragedAdapter(student.trainable_parameters(), 0.5)
    config = Config.model_validate(
        tiny_config(model={"path": str(folder)}, teacher={"path": "self", "ema": 0.5, "context": "think"})
    )
    device = DeviceThread(threads=1)
    engine = ServedEngine(
        config,
        FIXED,
        project_dir=tmp_path,
        run_dir=tmp_path,
        context_window=100,
        scored_window=128,
        student=student,
        device=device,
        average=average,
    )
    assert [role.window for role in engine._roles()] == [100]
    assert engine.baseline is None
    (teacher,) = engine.teachers.values()
    request = ScoreRequest((5, 9, 7, 11), 1)
    scores = asyncio.run(teacher.score([request]))
    assert scores == asyncio.run(engine.student_here.score([request]))  # both at their start
    done = []
    monkeypatch.setattr(ServerRole, "sleeper", property(lambda role: Sleeper(done)))
    for role in ("teacher", "student", "teacher", "trainer"):
        asyncio.run(engine.take_turn(role))
    assert done == ["sleep", "wake", "sleep"]  # the teacher's turn is the trainer's
    device.close()


class Sleeper:
    """Writes down what a server is told."""

    def __init__(self, done):
        self.done = done

    async def sleep(self):
        self.done.append("sleep")

    async def wake(self):
        self.done.append("wake")
