"""The on-distill-agent template: what it renders to, and its data."""

import json
import os
import subprocess
import sys
import types

import pytest

from rnow.assets import asset_root
from rnow.scaffold import plan_project, write_project
from rnow.skills import load_skill
from rnow_core.config.load import load_config
from rnow_core.data.rows import load_prompts

TEMPLATE = asset_root() / "templates" / "on-distill-agent"
SKILL = asset_root() / "skills" / "on-policy-distillation"


def scaffold(folder):
    skill = load_skill(SKILL)
    context = {"project": {"name": "agent"}, "defaults": {}, "skill": skill.descriptor()}
    write_project(plan_project(TEMPLATE, skill, folder, context), force=False)
    return folder


def test_the_config_says_what_the_documents_say(tmp_path):
    config = load_config(scaffold(tmp_path / "agent") / "config.yml").config
    assert (config.model.path, config.teacher[0].path) == ("Qwen/Qwen3-8B", "Qwen/Qwen3-32B")
    assert (config.dataset_type, config.algorithm.kl_penalty_coef) == ("distill", 0.1)
    assert (config.weights.adv_tau, config.weights.teacher_tau, config.weights.student_tau) == (0, 0.1, 0.1)
    assert (config.data.batch_size, config.data.group_size, config.rollout.max_turns) == (4, 4, 4)
    assert (config.sandbox.memory, config.sandbox.pids) == ("4g", 512)
    rollout = config.rollout
    longest = rollout.max_turns * rollout.max_tokens + (rollout.max_turns - 1) * rollout.max_tool_response
    assert longest < rollout.max_context_window, "an episode of full length fits"


def test_claude_md_repeats_the_skill_and_asks_for_the_whole_split(tmp_path):
    text = (scaffold(tmp_path / "agent") / "CLAUDE.md").read_text()
    skill = load_skill(SKILL)
    assert skill.section("Setup") in text
    assert skill.section("Quick start") in text
    assert "uv pip install datasets" in text
    for words in (text, (SKILL / "SKILL.md").read_text()):
        assert "whole split" in words
        assert "--limit" in words
    assert not any("--limit" in command for command in skill.commands("Quick start"))


def test_every_file_that_claude_md_lists_is_there(tmp_path):
    project = scaffold(tmp_path / "agent")
    rows = [line for line in (project / "CLAUDE.md").read_text().splitlines() if line.startswith("| `")]
    named = [part for row in rows for part in row.split("|")[1].replace("`", "").replace(",", " ").split()]
    assert len(named) > 6
    assert [name for name in named if name != "runs/" and not (project / name).exists()] == []


@pytest.mark.parametrize(("name", "image"), [("train", "crawl4ai"), ("offline", "replay")])
def test_shipped_rows_fill_a_batch_and_name_what_is_there(name, image, tmp_path, tools):
    project = scaffold(tmp_path / "agent")
    prompts = load_prompts([project / f"{name}.jsonl"], dataset_type="distill", need_rewards=False)
    assert len(prompts) >= load_config(project / "config.yml").config.data.batch_size
    assert {prompt.tools for prompt in prompts} == {("browse",)}
    assert {prompt.docker for prompt in prompts} == {f"local/{image}"}
    assert (project / f"Dockerfile.{image}").is_file()
    assert all(prompt.metadata["answer"] and prompt.metadata["task_name"] for prompt in prompts)
    answers = [str(prompt.metadata["answer"]) for prompt in prompts]
    shown = [" ".join(message["content"] for message in prompt.messages) for prompt in prompts]
    if name == "train":
        assert not any(answer in text for answer, text in zip(answers, shown, strict=True))
    else:
        recorded = "".join(path.read_text() for path in (project / "pages").iterdir())
        assert all(answer in recorded for answer in answers)


def test_the_recorded_pages_are_marked_as_made_up_and_all_links_lead_somewhere(tools, monkeypatch):
    monkeypatch.setenv("RNOW_BROWSE_REPLAY", str(TEMPLATE / "pages"))
    addresses = []
    for path in (TEMPLATE / "pages").iterdir():
        first = path.read_text().splitlines()[0]
        assert "made up by hand" in first
        addresses.append(tools.FIRST_LINE.match(first).group(1))
    for address in addresses:
        page = tools.browse(address)
        assert not page.startswith("Error")
        assert "made up by hand" not in page
        for link in [part.split(")")[0] for part in page.split("](")[1:]]:
            assert link in addresses


def test_the_image_is_pinned_and_its_start_command_makes_a_token(tmp_path):
    lines = (TEMPLATE / "Dockerfile.crawl4ai").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM ")] == ["FROM docker.io/unclecode/crawl4ai:0.9.2"]
    start = next(index for index, line in enumerate(lines) if line.startswith("CMD "))
    command = " ".join(line.rstrip("\\") for line in lines[start:]).removeprefix("CMD ")
    token_file = tmp_path / "token"
    command = command.replace("/tmp/crawl4ai-token", str(token_file))
    (tmp_path / "entrypoint.sh").write_text('printf %s "$CRAWL4AI_API_TOKEN"')

    def start_up(**environment):
        environment = {"PATH": os.environ["PATH"], **environment}
        return subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    first, second = start_up(), start_up()
    assert len(first) == 64
    assert first != second
    assert token_file.read_text() == second
    assert token_file.stat().st_mode & 0o077 == 0
    assert start_up(CRAWL4AI_API_TOKEN="mine") == "mine"
    assert token_file.read_text() == "mine"


# ---- convert_dataset.py -------------------------------------------------------------------------------------------

ROWS = [
    {
        "prompt": "Which drug is in trial A?",
        "gold": "amivastat",
        "task_name": "drug",
        "split": "MedBrowseComp_50",
    },
    {
        "prompt": "When was it approved – exactly?",
        "gold": "2020-01-02",
        "task_name": "date",
        "split": "other",
    },
    {
        "prompt": " Which drug is in trial B? ",
        "gold": "bevastat",
        "task_name": "drug",
        "split": "MedBrowseComp_50",
    },
]


def write_source(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        import csv

        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def rows_of(path):
    return load_prompts([path], dataset_type="distill", need_rewards=False)


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.csv"])
def test_a_local_file_becomes_rows(name, convert, tmp_path, capsys):
    write_source(tmp_path / name, ROWS)
    convert.main([name])
    prompts = rows_of(tmp_path / "train.jsonl")
    assert [prompt.messages[-1] for prompt in prompts] == [
        {"role": "user", "content": row["prompt"].strip()} for row in ROWS
    ]
    assert [prompt.metadata for prompt in prompts] == [
        {"answer": row["gold"], "task_name": row["task_name"], "split": row["split"]} for row in ROWS
    ]
    assert {(prompt.tools, prompt.docker) for prompt in prompts} == {(("browse",), "local/crawl4ai")}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Wrote 3 rows ")
    assert [line.split()[:2] for line in lines[2:]] == [["drug", "2"], ["date", "1"]]


def test_split_limit_output_and_docker(convert, tmp_path):
    write_source(tmp_path / "q.csv", ROWS)
    convert.main(
        ["q.csv", "--split", "MedBrowseComp_50", "--output", "some.jsonl", "--docker", "local/replay"]
    )
    assert [prompt.metadata["answer"] for prompt in rows_of(tmp_path / "some.jsonl")] == [
        "amivastat",
        "bevastat",
    ]
    assert {prompt.docker for prompt in rows_of(tmp_path / "some.jsonl")} == {"local/replay"}
    convert.main(["q.csv", "--limit", "1", "--output", "some.jsonl"])
    assert [prompt.metadata["answer"] for prompt in rows_of(tmp_path / "some.jsonl")] == ["amivastat"]
    assert {path.name for path in tmp_path.iterdir()} == {"q.csv", "some.jsonl"}


def hub(monkeypatch, load_dataset):
    """A `datasets` package that answers with `load_dataset`; the real one would need the network."""
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


@pytest.mark.parametrize(
    ("arguments", "split"),
    [([], "MedBrowseComp_605"), (["--split", "MedBrowseComp_CUA"], "MedBrowseComp_CUA")],
)
def test_by_default_the_whole_605_split_is_downloaded(
    arguments, split, convert, tmp_path, monkeypatch, capsys
):
    calls = []

    def load_dataset(path, **options):
        calls.append((path, options))
        return ({**ROWS[0], "prompt": f"Question number {i}?", "split": split} for i in range(605))

    hub(monkeypatch, load_dataset)
    convert.main(arguments)
    assert calls == [("AIM-Harvard/MedBrowseComp", {"split": split})]
    prompts = rows_of(tmp_path / "train.jsonl")
    assert len(prompts) == 605
    assert prompts[-1].metadata["split"] == split
    assert "Wrote 605 rows" in capsys.readouterr().out


def test_a_parquet_file_goes_through_the_library(convert, tmp_path, monkeypatch, capsys):
    def load_dataset(path, **options):
        assert (path, options) == ("parquet", {"data_files": "q.parquet", "split": "train"})
        return [{**ROWS[0], "gold": 3.5}, {**ROWS[0], "gold": float("nan"), "task_name": None}]

    hub(monkeypatch, load_dataset)
    (tmp_path / "q.parquet").write_bytes(b"PAR1")
    convert.main(["q.parquet"])
    assert [dict(prompt.metadata) for prompt in rows_of(tmp_path / "train.jsonl")] == [
        {"answer": 3.5, "task_name": "drug", "split": "MedBrowseComp_50"},
        {"split": "MedBrowseComp_50"},
    ]
    said = capsys.readouterr().out
    assert "1 of them have no answer" in said
    assert "(no task_name)" in said


def offline(path, **options):
    raise ConnectionError("Couldn't reach 'AIM-Harvard/MedBrowseComp' on the Hub\nlong story")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], r"could not be loaded: ConnectionError: Couldn't reach .* on the Hub\nCheck the network.*FILE"),
        (
            ["--split", "train"],
            "no split 'train'. It has: MedBrowseComp_605, MedBrowseComp_50, MedBrowseComp_CUA",
        ),
        (["absent.csv"], "absent.csv cannot be read: No such file"),
        (["absent.parquet"], "absent.parquet cannot be read: No such file"),
        (["q.xlsx"], "expected a file that ends in .jsonl, .json, .csv, .parquet"),
        (["q.csv", "--split", "train"], "no row whose split is 'train'. It has: MedBrowseComp_50, other"),
        (["q.csv", "--output", "absent/train.jsonl"], "cannot be written: No such file"),
        (["broken.jsonl"], "line 2 is not JSON"),
        (["list.jsonl"], "line 1: expected a JSON object, got list"),
        (["empty.jsonl"], "has no rows"),
        (["columns.jsonl"], "has no column prompt. Its columns: question, gold"),
        (["holes.jsonl"], r"cannot be converted:\nrow 2: prompt: expected a question, got ''\nrow 3"),
        (["encoded.jsonl"], "passed around encoded"),
    ],
)
def test_mistakes_end_with_one_message_and_leave_the_rows_alone(
    arguments, said, convert, tmp_path, monkeypatch
):
    hub(monkeypatch, offline)
    write_source(tmp_path / "q.csv", ROWS)
    contents = {
        "broken.jsonl": '{"prompt": "a b", "gold": "c"}\n{"prompt": \n',
        "list.jsonl": "[1]\n",
        "empty.jsonl": "\n",
        "columns.jsonl": '{"question": "a b", "gold": "c"}\n',
        "holes.jsonl": '{"prompt": "a b"}\n{"prompt": ""}\n{"prompt": 3}\n',
        "encoded.jsonl": '{"prompt": "VGhpcyBpcyBub3QgcmVhZGFibGU=", "gold": "eA=="}\n',
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "train.jsonl").write_text("mine")
    with pytest.raises(SystemExit, match=said) as ended:
        convert.main(arguments)
    assert "Traceback" not in str(ended.value)
    assert (tmp_path / "train.jsonl").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_without_the_datasets_package_it_says_how_to_install_it(convert, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SystemExit, match="uv pip install datasets"):
        convert.main([])


@pytest.mark.parametrize("number", ["0", "-3", "some"])
def test_a_limit_is_a_positive_number(number, convert, capsys):
    with pytest.raises(SystemExit) as ended:
        convert.main(["--limit", number])
    assert ended.value.code == 2
    assert "--limit" in capsys.readouterr().err
