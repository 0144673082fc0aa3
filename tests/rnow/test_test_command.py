"""`rnow test` on a tiny student that was taught to call a tool: what is shown, what is saved, what is left alone."""

import json
from pathlib import Path

import pytest
import torch
from agents import make_agent_model, teach, tool_call, write_agent_project
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM

from rnow.display.trial import rollout_lines
from rnow_core.env.tool_pool import inspect_tools
from rnow_core.jobs.trial import TrialRequest, check_trial

REWARDS = '''from rnow import reward


@reward
def right(args, messages) -> float:
    """1 for the sum that the row knows."""
    return float(messages[-1]["content"] == args.metadata["sum"])


@reward
def brittle(args, messages) -> float:
    """Fails."""
    raise ValueError("no such file")
'''


def conversation(i):
    return [
        {"role": "user", "content": f"{i}+{i + 1}=?"},
        {"role": "assistant", "content": "", "tool_calls": [tool_call("add", a=i, b=i + 1)]},
        {"role": "tool", "content": str(2 * i + 1)},
        {"role": "assistant", "content": f"{2 * i + 1}"},
    ]


def row(i, *rewards):
    fields = {"tools": ["add"], "rewards": rewards or ["right"], "metadata": {"sum": str(2 * i + 1)}}
    return {"messages": conversation(i)[:1], **fields}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A student that calls `add` and repeats its result, and an untaught teacher."""
    folder = tmp_path_factory.mktemp("taught")
    rows = [row(0), row(1), row(2), row(3), row(0, "brittle")]
    config = write_agent_project(folder, rows, trainer={"max_steps": 1})
    (folder / "rewards.py").write_text(REWARDS)
    with (folder / "config.yml").open("w") as file:
        YAML().dump(config, file)
    schemas = [info.schema() for info in inspect_tools(folder) if info.name == "add"]
    make_agent_model(folder / "student", seed=1)
    teach(folder / "student", [conversation(i) for i in range(4)], schemas, steps=120)
    make_agent_model(folder / "teacher", seed=2)
    return folder


@pytest.fixture
def project(taught, tmp_path):
    """A copy without runs; the models are shared."""
    folder = tmp_path / "project"
    folder.mkdir()
    for path in taught.iterdir():
        if path.name != "runs":
            (folder / path.name).symlink_to(path)
    return folder


def saved(project):
    [file] = (project / "runs").glob("test-*/rollouts/step_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_people_see_the_conversation_with_calls_results_and_figures(rnow, project):
    done = rnow("test", "--dir", project, "-n", "2")
    assert done.code == 0, done.err
    first, second = done.out.split("\n\n")[:2]
    assert first.splitlines()[0] == "row 1 (train.jsonl:1), rollout 1"
    assert second.splitlines()[0] == "row 2 (train.jsonl:2), rollout 1"
    lines = second.splitlines()
    heads = [line.split()[0] for line in lines[1:] if not line.startswith("    ")]
    assert heads == ["user", "assistant", "tool", "assistant", "stop", "reward", "KL"]
    assert lines[2] == "    1+2=?"
    assert "    -> add(a=1, b=2)" in lines
    assert lines[lines.index("  tool  add") + 1] == "    3"
    assert "turn 2, 2 tokens, KL " in second
    assert "1 tool call (0 failed)" in second
    assert "  reward  1  (right 1)" in lines
    assert "2 rollouts  stop 2  reward 1  KL " in done.out
    assert "rollout 2 of 2: stop" in done.err
    assert "\x1b" not in done.out + done.err


def test_json_and_the_saved_traces_say_the_same_and_the_kl_is_the_teachers(rnow, project):
    done = rnow("test", "--dir", project, "--json", "-n", "2")
    told = json.loads(done.out)
    records = saved(project)
    assert (done.code, told["ok"], told["engine"], len(told["rollouts"])) == (0, True, "hf", 2)
    assert [json.loads(line) for line in Path(told["saved"]).read_text().splitlines()] == records
    teacher, student = (
        AutoModelForCausalLM.from_pretrained(project / name, dtype=torch.float32)
        for name in ("teacher", "student")
    )
    for item, record in zip(told["rollouts"], records, strict=True):
        ids = torch.tensor([record["prompt_ids"] + record["ids"]])
        start = len(record["prompt_ids"])
        with torch.no_grad():
            by_model = [model(ids).logits[0, :-1].double().log_softmax(-1) for model in (student, teacher)]
        own, other = (table.gather(1, ids[0, 1:, None])[start - 1 :, 0] for table in by_model)
        mask = torch.tensor(record["mask"]).bool()
        expected = (own - other)[mask]
        kl = torch.tensor([value for value in record["kl"] if value is not None])
        torch.testing.assert_close(kl.double(), expected, atol=1e-4, rtol=1e-4)
        assert item["teacher_kl"] == pytest.approx(float(expected.mean()), abs=1e-4)
        turns = torch.tensor(record["turns"])
        for turn in item["turns"]:
            mine = turns == turn["turn"]
            assert turn["tokens"] == int(mine.sum())
            assert turn["teacher_kl"] == pytest.approx(float((own - other)[mine].mean()), abs=1e-4)
        assert item["tokens"] == int(mask.sum())
        assert item["messages"] == record["messages"]
        assert (item["rewards"], item["reward"]) == ({"right": 1.0}, 1.0)
        assert (item["tool_calls"], item["tool_errors"], item["stop_reason"]) == (1, 0, "stop")


def test_one_row_several_times_without_its_teacher_and_the_same_again(rnow, project):
    def ids(*more):
        done = rnow(
            "test", "--dir", project, "--json", "--no-teacher", "-n", "3", "--entry", "train.jsonl:3", *more
        )
        told = json.loads(done.out)
        assert [(item["row"], item["sample"]) for item in told["rollouts"]] == [(3, 0), (3, 1), (3, 2)]
        assert all(item["teacher_kl"] is None for item in told["rollouts"])
        return [json.loads(line)["ids"] for line in Path(told["saved"]).read_text().splitlines()]

    hot = "rollout.temperature=3"
    first = ids(hot)
    assert ids(hot) == first
    assert ids(hot, "seed=5") != first
    assert len({tuple(rollout) for rollout in first}) == 3


def test_a_rollout_that_fails_is_told_beside_the_others(rnow, project):
    done = rnow("test", "--dir", project, "-n", "5")
    assert done.code == 1
    assert "failed train.jsonl:5, rollout 1: " in done.out
    assert "no such file" in done.out
    assert "4 rollouts  1 failed  stop 4" in done.out
    assert "what tools, rewards and servers printed: " in done.out
    [log] = (project / "runs").glob("test-*/logs/rewards.log")
    assert "ValueError" in log.read_text()
    assert len(saved(project)) == 4
    as_json = rnow("test", "--dir", project, "--entry", "5", "--json")
    told = json.loads(as_json.out)
    assert (as_json.code, told["ok"], told["saved"], told["rollouts"]) == (1, False, None, [])
    assert [(item["line"], item["sample"]) for item in told["failures"]] == [(5, 0)]


def test_only_rollouts_are_written(rnow, project):
    before = {path.name for path in project.iterdir()}
    rnow("test", "--dir", project, "-n", "1", "--no-teacher")
    assert {path.name for path in project.iterdir()} - before == {"runs"}
    [folder] = (project / "runs").iterdir()
    assert {path.name for path in folder.iterdir()} == {"rollouts"}
    assert rnow("run", "--dir", project, "--resume").code == 2


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--entry", "99"], 2, "there are 5 training rows"),
        (["--entry", "val.jsonl:1"], 2, "train.jsonl"),
        (["--entry", "first"], 2, "FILE:LINE"),
        (["rollout.max_tokens=0"], 1, "rollout.max_tokens"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(rnow, project, args, code, said):
    done = rnow("test", "--dir", project, *args)
    assert done.code == code
    assert said in done.err
    assert not (project / "runs").exists()


def record(**changes):
    """A trace with one turn; the teacher dislikes `b`."""
    base = {
        "row": 0,
        "file": "train.jsonl",
        "line": 1,
        "sample": 0,
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "abc"}],
        "turns": [1, 1, 1, 1],
        "pieces": ["a", "b", "c", "<|im_end|>"],
        "kl": [0.0, 2.5, -0.5, 0.0],
        "tool_calls": 0,
        "tool_errors": 0,
        "stop_reason": "stop",
        "seconds": 0.5,
        "reward": None,
        "kl_mean": 0.5,
        "teacher_name": "teacher",
    }
    return {**base, **changes}


def test_verbose_marks_the_tokens_that_the_teacher_dislikes_in_the_exact_text():
    plain = list(rollout_lines(record(), verbose=True, colour=False))
    assert "    a[[b]]c<|im_end|>" in plain
    assert '    largest KL: "b" 2.5' in plain
    assert "    a\x1b[31mb\x1b[0mc<|im_end|>" in rollout_lines(record(), verbose=True, colour=True)
    assert "    abc" in rollout_lines(record(), verbose=False, colour=False)


def test_what_tools_and_students_write_cannot_steer_the_terminal():
    evil = "\x1b]0;owned\x07 \x9b2J \u202e"
    messages = [
        {"role": "tool", "name": evil, "content": evil},
        {"role": "assistant", "content": evil, "tool_calls": [tool_call(evil, **{evil: evil})]},
    ]
    poisoned = record(messages=messages, pieces=[evil, evil, "", evil], stop_reason="stop")
    for verbose in (False, True):
        text = "\n".join(rollout_lines(poisoned, verbose=verbose, colour=False))
        assert not any(character in text for character in "\x1b\x07\x9b\u202e")
        assert "owned" in text


def test_a_call_that_could_not_be_read_is_shown_as_it_was_written():
    answer = {"role": "tool", "name": "tool", "content": "Tool call 1 was not run"}
    messages = [record()["messages"][0], {"role": "assistant", "content": "a"}, answer]
    lines = list(rollout_lines(record(messages=messages), verbose=False, colour=False))
    assert "    abc<|im_end|>" in lines
    called = {"role": "assistant", "content": "a", "tool_calls": [tool_call("add", a=1)]}
    lines = list(rollout_lines(record(messages=[called, answer]), verbose=False, colour=False))
    assert "    -> add(a=1)" in lines
    assert "    abc<|im_end|>" not in lines


@pytest.mark.parametrize(("gib", "engine"), [(100, "hf"), (0.001, "vllm")])
def test_servers_are_started_only_where_this_process_has_no_room(project, monkeypatch, gib, engine):
    monkeypatch.setattr("rnow_core.preflight.plan.gpu_memory", lambda: [int(gib * 2**30)])
    monkeypatch.setattr("rnow_core.build.placement.find_spec", lambda name: name)
    assert check_trial(TrialRequest(project)).plan["engine"] == engine
    assert check_trial(TrialRequest(project, ["rollout.engine=vllm"])).plan["engine"] == "vllm"


def test_long_results_are_shortened_and_counted_unless_verbose():
    messages = [{"role": "tool", "name": "browse", "content": "x" * 5000}, *record()["messages"]]
    short = "\n".join(rollout_lines(record(messages=messages), verbose=False, colour=False))
    assert "x" * 600 in short
    assert "x" * 601 not in short
    assert "... 4,400 more characters" in short
    assert "x" * 5000 in "\n".join(rollout_lines(record(messages=messages), verbose=True, colour=False))
