"""`rnow generate` with a teacher of this machine: a tiny model that was taught to call a tool."""

import json
from pathlib import Path

import pytest
from agent_runs import asked_once, schemas
from agents import TOOLS, make_agent_model, processes_in, teach

from rnow_core.build.chat_teacher import LocalPlan
from rnow_core.errors import EnvironmentMissing, Interrupted, RnowError
from rnow_core.jobs.generate import GenerateRequest, generate
from rnow_core.stop import StopSignal


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    (folder / "tools.py").write_text(TOOLS)
    prompts = [{"prompt": f"{i}+{i + 1}=?", "tools": ["add"]} for i in range(4)]
    prompts.append({"prompt": "1" * 1100, "tools": ["add"]})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    make_agent_model(folder / "teacher")
    teach(folder / "teacher", [asked_once(i) for i in range(4)], schemas(folder, "add"), 120)
    return folder


def run(folder, output, stop=None, emit=lambda event: None, **changes):
    given = {
        "source": folder / "prompts.jsonl",
        "output": folder / output,
        "tools": folder / "tools.py",
        "model": str(folder / "teacher"),
        "local": True,
        "engine": "hf",
        "max_tokens": 100,
        "key_env": None,
        **changes,
    }
    return generate(GenerateRequest(**given), emit, stop or StopSignal())


def rows_of(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(rows, key=lambda row: row["messages"][0]["content"])


def test_a_local_model_answers_with_the_projects_tools_and_the_same_again(project):
    summary = run(project, "train.jsonl")
    rows = rows_of(project / "train.jsonl")
    assert [row["messages"][0]["content"] for row in rows] == [f"{i}+{i + 1}=?" for i in range(4)]
    for i, row in enumerate(rows):
        _, call, result, last = row["messages"]
        assert call["tool_calls"][0]["function"]["name"] == "add"
        assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"a": i, "b": i + 1}
        assert result["content"] == last["content"] == str(2 * i + 1)
        assert row["metadata"] == {"teacher": str(project / "teacher"), "turns": 2}
    (too_long,) = rows_of(project / "rejected.jsonl")
    assert too_long["reason"] == "too-long"
    assert summary["cost"] == 0
    assert summary["tokens"]["read"] > summary["tokens"]["written"] > 100
    assert not processes_in(project)
    said = []
    run(project, "train.jsonl", emit=lambda event: said.append(event.fields["message"]))
    assert said
    assert not any("loading" in message for message in said)


def test_what_is_sampled_depends_on_prompt_and_turn_only(project):
    texts = []
    for name in ("hot", "again"):
        run(project, f"{name}.jsonl", temperature=3.0, max_tokens=20, concurrency=1)
        outputs = [project / f"{name}.jsonl", project / f"{name}.rejected.jsonl"]
        texts.append([output.read_text() for output in outputs])
    assert texts[0] == texts[1]
    replies = [row["messages"][1]["content"] for row in rows_of(outputs[1]) if len(row["messages"]) > 1]
    assert len(set(replies)) > 1


def test_a_stop_ends_the_loading(project):
    stop = StopSignal()
    stop.request()
    with pytest.raises(Interrupted):
        run(project, "new.jsonl", stop=stop)


def test_what_cannot_be_run_here_is_said_before_anything_is_loaded(project, monkeypatch):
    with pytest.raises(RnowError, match="there is no folder"):
        run(project, "a.jsonl", model="./nowhere")
    (project / "empty").mkdir(exist_ok=True)
    with pytest.raises(RnowError, match="it has no config"):
        run(project, "a.jsonl", model=str(project / "empty"))
    monkeypatch.setattr("rnow_core.build.chat_teacher.find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissing) as caught:
        run(project, "a.jsonl", engine="vllm")
    assert "rnow-distill[vllm]" in caught.value.hint
    assert not (project / "a.jsonl").exists()


def plan(billions, gpus, gib):
    return LocalPlan(
        path="m",
        engine="vllm",
        parameters=billions * 10**9,
        token_bytes=2**18,
        window=40960,
        at_once=8,
        gpus=gpus,
        memory=gib * 2**30,
        log=Path("log"),
    )


def test_a_model_larger_than_a_gpu_is_cut_over_several_and_the_rest_serve_copies():
    small, large = plan(32, 4, 80), plan(70, 5, 80)
    assert (small.parallel.gpus, small.parallel.tensor, small.parallel.data) == ((0, 1, 2, 3), 1, 4)
    assert (large.parallel.gpus, large.parallel.tensor, large.parallel.data) == ((0, 1, 2, 3), 2, 2)
    assert plan(4, 1, 80).usable_window(2048) == 40960
    # 0.9 x 80 GiB, less the weights and 4 GiB, in pieces of 2^18 bytes
    assert small.usable_window(2048) == int((0.9 * 80 - 4) * 2**30 - 64e9) // 2**18
    with pytest.raises(RnowError, match="130 GiB of weights, and the 1 GPU"):
        _ = plan(70, 1, 80).parallel
    with pytest.raises(RnowError, match="room for a conversation") as caught:
        small.usable_window(35000)
    assert "--max-tokens" in caught.value.hint
