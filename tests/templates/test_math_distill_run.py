"""The math-distill template from `rnow init` to `rnow eval`: small sums, tiny models, a base model as student."""

import json
import runpy
import sys

import pytest
from tiny import make_model

from rnow.guard import guarded

SMALLER = (
    *("data.batch_size=32", "data.group_size=8", "trainer.num_epochs=9", "trainer.max_steps=6"),
    *("model.qlora_rank=8", "trainer.learning_rate=0.01", "trainer.eval_step=3", "rollout.max_tokens=8"),
    *("eval.max_tokens=8", "eval.group_size=2", "eval.batch_size=16", "eval.pass_at=[1, 2]"),
)
TOKENS = ("advantage", "teacher", "trainer")


@pytest.fixture
def rnow(tmp_path, monkeypatch, capsys):
    """Run a command in this process; it must succeed. Returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        capsys.readouterr()
        code = guarded(list(words))
        said = capsys.readouterr()
        assert code == 0, said.out[-3000:] + said.err[-3000:]
        return said.out

    return call


def test_from_init_to_a_table(rnow, tmp_path, monkeypatch):
    rnow("init", "math-distill", "math", "--set", "student=./student", "--set", "teacher=./teacher")
    folder = tmp_path / "math"
    monkeypatch.chdir(folder)
    sums = [
        {"question": f"{i}+{j}=?", "answer": f"so it is\n#### {i + j}"} for i in range(8) for j in range(5)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    arguments = ["--train", "sums.jsonl", "--reward", "numeric", "--instruction", ""]
    monkeypatch.setattr(sys, "argv", ["prepare_deepmath_data.py", *arguments])
    runpy.run_path("prepare_deepmath_data.py", run_name="__main__")
    for name, seed in (("student", 1), ("teacher", 2)):
        make_model(folder / name, seed=seed)
    for name in ("config.json", "generation_config.json"):
        path = folder / "student" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": 0}))

    report = json.loads(rnow("validate", *SMALLER, "--json"))
    assert [(finding["code"], finding["severity"]) for finding in report["findings"]] == [
        ("RN318", "warning")
    ]
    assert (report["plan"]["rows"], report["plan"]["held_out_rows"], report["plan"]["steps"]) == (36, 4, 6)
    rnow("run", *SMALLER, "--name", "first")

    run = folder / "runs" / "first"
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    trained = [line for line in metrics if "loss/policy" in line]
    assert len(trained) == 6
    assert (
        print([x["teacher_kl"] for x in trained])
        or trained[-1]["teacher_kl"] < 0.8 * trained[0]["teacher_kl"]
    )
    assert all(abs(line["mismatch_kl"]) < 1e-4 for line in trained)
    evaluated = [line for line in metrics if "eval/sums/avg@2" in line]
    assert [line["step"] for line in evaluated] == [0, 3, 6]
    assert all(line["eval/sums/pass@2"] >= line["eval/sums/avg@2"] for line in evaluated)
    records = [json.loads(line) for file in sorted((run / "rollouts").iterdir()) for line in file.open()]
    for record in records:
        for advantage, teacher, student in zip(*(record[key] for key in TOKENS), strict=True):
            assert advantage == pytest.approx(min(max(teacher - student, -5), 5), abs=1e-3)

    table = json.loads(rnow("eval", "--run", "first", "--json"))["envs"]["sums"]["policies"]
    assert {name: policy["samples"] for name, policy in table.items()} == {
        "student": 8,
        "base": 8,
        "teacher": 8,
    }
