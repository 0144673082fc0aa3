"""The math-distill template and its skill: prepared problems, the values of the recipe, examples that work."""

import csv
import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import pytest

from rnow.assets import asset_root
from rnow.scaffold import plan_project, write_project
from rnow.skills import load_skill
from rnow_core.config.load import load_config
from rnow_core.data.rows import load_prompts
from rnow_core.preflight.verifiers import answer_problem

TEMPLATE = asset_root() / "templates" / "math-distill"
SKILL = load_skill(asset_root() / "skills" / "math-distillation")
SOLUTION = "He has 3 + 4 = <<3+4=7>>7 boxes.\nIn dollars: 7 * 200 = 1,400.\n#### 1,400"


@pytest.fixture
def prepare(monkeypatch, tmp_path):
    """The template's script as a module, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(
        "prepare_deepmath_data", TEMPLATE / "prepare_deepmath_data.py"
    )
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def problems(tmp_path):
    """Write problems as JSON lines and return the file."""

    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def rows_of(name):
    """A written file, read and checked as a run reads it."""
    return load_prompts([Path(name)], dataset_type="distill", need_rewards=True)


def project_in(folder):
    context = {
        "project": {"name": "sums"},
        "skill": SKILL.descriptor(),
        "install": {"requirement": "rnow-distill"},
    }
    write_project(plan_project(TEMPLATE, SKILL, folder, context), force=False)
    return folder


def test_the_config_has_the_values_of_the_recipe(tmp_path):
    path = project_in(tmp_path) / "config.yml"
    config = load_config(path).config
    assert (config.model.path, config.teacher[0].path) == ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-32B")
    assert (config.model.qlora_rank, config.data.batch_size, config.data.group_size) == (128, 128, 4)
    assert (config.eval.batch_size, config.eval.group_size, config.eval.pass_at) == (512, 8, [1, 8])
    assert (config.trainer.learning_rate, config.algorithm.loss_fn) == (1e-4, "importance_sampling")
    weights = config.weights
    assert (weights.adv_tau, weights.teacher_tau, weights.student_tau) == (0, 1, 1), "precomputed advantages"
    assert (config.algorithm.clip_min, config.algorithm.clip_max) == (-5, 5)
    assert config.logging.wandb_project is None
    path.write_text(re.sub(r"^# (?=logging:| )", "", path.read_text(), flags=re.MULTILINE))
    assert load_config(path).config.logging.wandb_project == "opd-deepmath-8b-32b"


@pytest.mark.parametrize("page", ["README.md", "SKILL.md"])
def test_the_cold_start_of_the_pages_can_be_added_to_the_config(page, tmp_path):
    text = ((TEMPLATE if page == "README.md" else SKILL.folder) / page).read_text()
    (stages,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "stages:" in block)
    path = project_in(tmp_path) / "config.yml"
    path.write_text(path.read_text() + stages)
    loaded = load_config(path)
    assert [stage.dataset_type for stage in loaded.config.stage_configs()] == ["sft", "distill"]
    assert (loaded.findings, loaded.unavailable()) == ((), [])


def test_every_row_example_of_the_skill_is_a_row(tmp_path):
    text = (SKILL.folder / "SKILL.md").read_text()
    (tmp_path / "rows.jsonl").write_text("".join(re.findall(r"```json\n(.*?)```", text, re.DOTALL)))
    (row,) = rows_of(tmp_path / "rows.jsonl")
    assert answer_problem(row, "math") is None


def test_sample_problems_become_both_files(prepare, capsys):
    prepare.main(["--train", str(TEMPLATE / "sample_problems.jsonl")])
    train, held_out = rows_of("train.jsonl"), rows_of("val.jsonl")
    assert (len(train), len(held_out)) == (22, 2)
    assert "Wrote 22 problems" in capsys.readouterr().out
    assert {row.rewards for row in train} == {("math",)}
    assert {row.env for row in held_out} == {"sample_problems"}
    assert not {row.messages[0]["content"] for row in train} & {
        row.messages[0]["content"] for row in held_out
    }
    assert train[0].messages[0]["content"].endswith(r"put the final answer in \boxed{}.")
    assert train[0].metadata == {"answer": "25", "topic": "arithmetic", "source": "sample_problems"}


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (SOLUTION, "1400"),
        (r"\boxed{\dfrac12}.", r"\frac12"),
        (r"$x^2 + 1$", "x^2 + 1"),
        ("$a$ or $b$", "$a$ or $b$"),
        (r"\(\sqrt{2}\)", r"\sqrt{2}"),
        ("025", "25"),
        (0, "0"),
        ("-1,234.50", "-1234.50"),
        ("(1,234)", "(1,234)"),
        ("0.5", "0.5"),
    ],
)
def test_answers_lose_what_is_around_them(prepare, problems, written, answer):
    file = problems("train.jsonl.in.jsonl", [{"problem": "p", "answer": written}])
    other = problems("eval.jsonl", [{"question": "another one", "answer": "1"}])
    prepare.main(["--train", file, "--eval", other, "--instruction", ""])
    (row,) = rows_of("train.jsonl")
    assert (row.messages[0]["content"], row.metadata["answer"]) == ("p", answer)


def test_problems_of_the_evaluation_are_not_trained_on(prepare, problems, capsys):
    long = (
        "A train leaves the town at nine and drives {} miles an hour until it meets the other train at noon."
    )
    evaluation = [
        {"question": "What is 2 + 2?", "answer": "4"},
        {"question": long.format(60), "answer": "180"},
    ]
    training = [
        {"question": "what is  2 + 2?", "answer": "4"},
        {"question": "Read this. " + long.format(60) + " How far is that?", "answer": "180"},
        {"question": "What is 3 + 3?", "answer": "6"},
        {"question": "What is 3 + 3?", "answer": "6"},
    ]
    prepare.main(["--train", problems("t.jsonl", training), "--eval", problems("e.jsonl", evaluation)])
    (row,) = rows_of("train.jsonl")
    assert "3 + 3" in row.messages[0]["content"]
    said = capsys.readouterr().out
    assert "1 of 4 training problems that are there twice" in said
    assert "2 of 4 training problems that are in the evaluation too" in said


def test_columns_of_a_csv_file_and_an_answer_inside_a_text(prepare, problems, tmp_path, capsys):
    with (tmp_path / "in.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows(
            [("task", "worked"), ("1 + 1", "Answer: 2"), ("x + x", "Answer: 2x"), ("2 + 2", "no idea")]
        )
    other = problems("e.jsonl", [{"task": "9 + 9", "worked": "Answer: 18"}])
    options = ["--question-field", "task", "--answer-field", "worked", "--answer-regex", "Answer: (.+)"]
    prepare.main(["--train", "in.csv", "--eval", other, *options, "--reward", "numeric"])
    (row,) = rows_of("train.jsonl")
    assert (row.metadata["answer"], row.rewards) == ("2", ("numeric",))
    said = capsys.readouterr().out
    assert "left out 1 of 3 rows without an answer" in said
    assert "left out 1 of 3 rows with an answer that `numeric` cannot use" in said


def test_a_limit_takes_the_same_sample_again_and_another_with_another_seed(prepare, problems):
    file = problems("in.jsonl", [{"question": f"What is {i} + 1?", "answer": i + 1} for i in range(60)])
    texts = []
    for seed in ("1", "1", "2"):
        prepare.main(["--train", file, "--limit", "20", "--seed", seed])
        assert (len(rows_of("train.jsonl")), len(rows_of("val.jsonl"))) == (20, 6)
        texts.append(Path("train.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]


class StandIn(list):
    """What `datasets.load_dataset` returns, as far as it is used."""

    column_names = property(lambda self: list(self[0]))

    def select_columns(self, names):
        return [{name: row[name] for name in names} for row in self]


def test_the_two_data_sets_of_the_recipe(prepare, monkeypatch):
    """Columns as on Hugging Face: https://huggingface.co/datasets/zwhe99/DeepMath-103K, HuggingFaceH4/aime_2024."""
    deep = {
        "question": "Find the limit.",
        "final_answer": r"\dfrac{2}{3}",
        "difficulty": 5.0,
        "topic": "Calculus",
    }
    data = {
        "zwhe99/DeepMath-103K": StandIn(
            [{**deep, "r1_solution_1": "long"}, {**deep, "question": "Find 25."}]
        ),
        "HuggingFaceH4/aime_2024": StandIn(
            [{"problem": "Find 25.", "solution": "s", "answer": "025", "year": "2024"}]
        ),
    }
    module = types.ModuleType("datasets")
    module.load_dataset = lambda name, split: data[name] if split == "train" else None
    monkeypatch.setitem(sys.modules, "datasets", module)
    prepare.main([])
    (row,), (held_out,) = rows_of("train.jsonl"), rows_of("val.jsonl")
    assert row.metadata == {
        "answer": r"\frac{2}{3}",
        "difficulty": 5.0,
        "topic": "Calculus",
        "source": "DeepMath-103K",
    }
    assert (held_out.metadata["answer"], held_out.env) == ("25", "aime_2024")


@pytest.mark.parametrize(
    ("arguments", "content", "said"),
    [
        ([], None, "needs the package `datasets`"),
        (["--train", "in.txt"], "x", "expected a file that ends in .jsonl, .csv, .parquet"),
        (["--train", "missing.jsonl"], None, "missing.jsonl cannot be read: No such file"),
        (["--train", "in.jsonl"], '{"question": "a"}\n{"quest', "cannot be read: line 2"),
        (
            ["--train", "in.jsonl"],
            '{"text": "a", "answer": 1}',
            "no column question, problem, prompt. It has: text",
        ),
        (["--train", "in.jsonl"], '{"question": "a", "answer": 1}', "one problem is not enough"),
        (["--train", "in.jsonl"], "", "has no rows"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_message(prepare, monkeypatch, arguments, content, said):
    monkeypatch.setitem(sys.modules, "datasets", None)
    if content is not None:
        Path(arguments[1]).write_text(content)
    with pytest.raises(SystemExit) as ended:
        prepare.main(arguments)
    assert said in str(ended.value)
    assert not Path("train.jsonl").exists()
