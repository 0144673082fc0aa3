"""`hf` and `vllm` on one learnable task: the student gets equally good, and far better than it was."""

import importlib.util
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from served_runs import MISMATCH, run
from tiny import write_config
from transformers import AutoModelForCausalLM

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]
QUICKSTART = Path(__file__).parents[3] / "templates" / "quickstart"
HELD_OUT = 256
TOLERANCE = 0.1
"""The engines draw other samples from the same policy: two runs of `hf` with different seeds differ as well."""


@pytest.fixture
def quickstart(monkeypatch):
    """The quickstart's prepare.py, its strings cut to three letters."""
    spec = importlib.util.spec_from_file_location("quickstart_prepare", QUICKSTART / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    module.LETTERS = 3
    return module


def prepare(quickstart, folder: Path):
    """A teacher that reverses three letters nearly always, a student of its size that does in two of five cases.

    Returns the held-out questions and replies as ids.
    """
    quickstart.logging.disable_progress_bar()
    generator, taken = random.Random(0), set()
    held_out, known, prompts = (
        quickstart.make_questions(count, generator, taken) for count in (HELD_OUT, 4096, 4096)
    )
    tokenizer = quickstart.make_tokenizer()
    lessons = [quickstart.make_lessons(tokenizer, questions) for questions in (known, held_out)]
    for recipe, low, high in ((quickstart.TEACHER, 0.95, 1.0), (quickstart.STUDENT, 0.4, 0.45)):
        small = replace(recipe, hidden=64, layers=2, low=low, high=high)
        with torch.random.fork_rng(devices=[]):
            model = quickstart.make_model(small, tokenizer)
            quickstart.train(model, small, *lessons)
        quickstart.save(model, tokenizer, folder / recipe.name)
    quickstart.write_rows(folder / "train.jsonl", prompts)
    shutil.copy(QUICKSTART / "rewards.py", folder)
    write_config(
        folder,
        data={"batch_size": 48, "group_size": 1, "val_file": None},
        model={"qlora_rank": 16},
        algorithm={
            "adv_tau": 0,
            "teacher_tau": 1,
            "student_tau": 1,
            "clip_min": -1,
            "clip_max": 1,
            "skip_verification": True,
        },
        trainer={
            "max_steps": 30,
            "learning_rate": 6e-3,
            "lr_schedule": "linear",
            "warmup_steps": 3,
            "updates_per_batch": 6,
            "save_step": -1,
        },
    )
    return lessons[1]


def accuracy(quickstart, held_out, student: Path, adapter: Path | None = None) -> float:
    """Mean probability of the right reply, as transformers and peft load the model: no sampling, no noise."""
    model = AutoModelForCausalLM.from_pretrained(student)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return quickstart.expected_accuracy(model, held_out)


def test_both_engines_teach_the_student_the_same(quickstart, tmp_path):
    held_out = prepare(quickstart, tmp_path)
    before = accuracy(quickstart, held_out, tmp_path / "student")
    after = {}
    for engine in ("hf", "vllm"):
        ran = run(tmp_path, engine, overrides=[f"rollout.engine={engine}"])
        assert ran.error is None, ran.error
        assert max(metrics["mismatch_kl"] for metrics in ran.steps) < MISMATCH
        after[engine] = accuracy(
            quickstart, held_out, tmp_path / "student", ran.folder / "checkpoints" / ran.checkpoints()[-1]
        )
    assert after["vllm"] == pytest.approx(after["hf"], abs=TOLERANCE)
    assert min(after.values()) > before + 0.25
