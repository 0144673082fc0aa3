"""What a learner writes: checkpoints that resume byte for byte, published weights that others can read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from learner_reference import CPU, make_batch, student

from rnow_core.errors import RnowError
from rnow_core.models.causal_lm import load_student
from rnow_core.models.hf_learner import HFLearner
from rnow_core.types import ScoreRequest


@pytest.mark.parametrize("rank", [4, 0])
def test_resuming_is_byte_identical_to_not_stopping(
    rank: int, model_folder: Callable[..., str], learner: Callable[..., HFLearner], tmp_path: Path
) -> None:
    settings = {"lr_schedule": "cosine", "warmup_steps": 2, "total_steps": 5, "weight_decay": 0.01}
    batches = [make_batch(seed=step) for step in range(5)]
    straight = learner(load_student(model_folder(), rank=rank, alpha=8, device=CPU), **settings)
    for folder in ("start", "middle", "straight", "resumed"):
        (tmp_path / folder).mkdir()
    straight.save(tmp_path / "start")
    for step in range(1, 6):
        straight.update(batches[step - 1], step)
        if step == 2:
            straight.save(tmp_path / "middle")
    straight.save(tmp_path / "straight")

    resumed = learner(load_student(model_folder(), rank=rank, alpha=8, device=CPU, seed=99), **settings)
    resumed.load(tmp_path / "middle")
    assert resumed.publish(None).name == "student-000002"
    for step in range(3, 6):
        resumed.update(batches[step - 1], step)
    resumed.save(tmp_path / "resumed")
    assert_same_files(tmp_path / "straight", tmp_path / "resumed")

    resumed.load(tmp_path / "start")
    (tmp_path / "again").mkdir()
    for step in range(1, 6):
        resumed.update(batches[step - 1], step)
    resumed.save(tmp_path / "again")
    assert_same_files(tmp_path / "straight", tmp_path / "again")


def assert_same_files(first: Path, second: Path) -> None:
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert "optimizer.safetensors" in names
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_loading_another_runs_checkpoint_is_an_error(
    model_folder: Callable[..., str], learner: Callable[..., HFLearner], tmp_path: Path
) -> None:
    made = learner(student(model_folder(), rank=2))
    made.update(make_batch(), 1)
    made.save(tmp_path)
    with pytest.raises(RnowError, match=r"expected \(4, 64\), got \(2, 64\)"):
        learner(student(model_folder(), rank=4)).load(tmp_path)


def test_published_weights_are_what_peft_reads(
    model_folder: Callable[..., str], learner: Callable[..., HFLearner], tmp_path: Path
) -> None:
    made = learner()
    made.update(make_batch(), 1)
    version = made.publish(tmp_path / "adapters")
    assert (version.name, version.path) == ("student-000001", tmp_path / "adapters" / "student-000001")
    request = ScoreRequest((5, 9, 33, 21, 60), 1)
    program = (
        "import sys, torch, peft, transformers\n"
        "base = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)\n"
        "model = peft.PeftModel.from_pretrained(base, sys.argv[2]).eval()\n"
        f"ids = torch.tensor([{list(request.ids)}])\n"
        "logp = torch.log_softmax(model(ids).logits[0], -1)\n"
        "print(*[logp[t - 1, ids[0, t]].item() for t in range(1, ids.shape[1])])\n"
    )
    command = [sys.executable, "-c", program, model_folder(), str(version.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = [float(word) for word in done.stdout.split()]
    assert made.logprobs([request])[0] == pytest.approx(expected, abs=1e-5)


def test_a_whole_model_is_published_as_a_model_folder(
    model_folder: Callable[..., str], learner: Callable[..., HFLearner], tmp_path: Path
) -> None:
    made = learner(student(model_folder(), rank=0))
    made.update(make_batch(), 1)
    version = made.publish(tmp_path)
    request = ScoreRequest((5, 9, 33, 21, 60), 1)
    again = learner(student(str(version.path), rank=0))
    assert again.logprobs([request]) == made.logprobs([request])
    assert learner(student(model_folder(), rank=0)).logprobs([request]) != made.logprobs([request])
