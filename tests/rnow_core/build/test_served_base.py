"""What a vLLM server is started with where the student's base is in nf4."""

import pytest
import torch
from tiny import make_model, tiny_config

from rnow_core.build.fixed import Fixed
from rnow_core.build.placement import Placement
from rnow_core.build.served import ServedEngine
from rnow_core.build.served_base import served_base
from rnow_core.config.schema import Config
from rnow_core.models.causal_lm import load_frozen, load_student
from rnow_core.models.device import DeviceThread, device_named

CPU = device_named("cpu")
FIXED = Fixed("vllm", "cpu", 1, 2048, False, 0, 4, Placement())
IDS = torch.tensor([[5, 9, 7, 11, 30, 12]])


@pytest.fixture
def student(tmp_path):
    folder = make_model(tmp_path / "student", seed=1, hidden=64)
    return load_student(str(folder), rank=2, alpha=4, device=CPU, quantized=True)


def test_the_students_server_has_the_weights_that_the_learner_multiplies_by(student, tmp_path):
    config = Config.model_validate(
        tiny_config(model={"path": student.name, "quantization": "nf4"}, teacher={"path": "self"})
    )
    device = DeviceThread(threads=1)
    engine = ServedEngine(
        config,
        FIXED,
        project_dir=tmp_path,
        run_dir=tmp_path,
        context_window=100,
        scored_window=100,
        student=student,
        device=device,
    )
    device.close()
    (role,) = engine._roles()
    assert role.model != student.name
    served = load_frozen(role.model, device=CPU)
    with torch.no_grad(), student.adapter_off():
        torch.testing.assert_close(served.hidden(IDS), student.hidden(IDS), atol=1e-6, rtol=0)


def test_it_is_written_once_for_each_base(student, tmp_path):
    first = served_base(student, tmp_path)
    assert {"tokenizer.json", "tokenizer_config.json"} < {file.name for file in first.iterdir()}
    stamp = (first / "config.json").stat().st_mtime_ns
    assert served_base(student, tmp_path) == first
    assert (first / "config.json").stat().st_mtime_ns == stamp
    other = make_model(tmp_path / "other", seed=2, hidden=64)
    again = served_base(load_student(str(other), rank=2, alpha=4, device=CPU, quantized=True), tmp_path)
    assert again != first
    assert (tmp_path / ".rnow" / ".gitignore").read_text() == "*\n"
