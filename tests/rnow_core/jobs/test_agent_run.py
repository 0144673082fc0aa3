"""Whole runs of agents: tiny students that were taught to call tools, tools in real worker processes."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import get_args

import psutil
import pytest
import torch
from agent_runs import asked_twice, run, said, schemas, traces, write_config
from agents import agent_rows, make_agent_model, teach, write_agent_project
from safetensors.torch import load_file
from tiny import write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from rnow_core.errors import FindingsError
from rnow_core.types import StopReason

STOP = 2
"""The id of <|im_end|>."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A student that has half learnt to ask twice, and a teacher that knows how."""
    folder = tmp_path_factory.mktemp("agent")
    config = write_agent_project(folder, agent_rows(4) * 2, trainer={"learning_rate": 0.003})
    write_config(folder, config)
    for name, seed, steps in (("student", 1, 75), ("teacher", 2, 100)):
        make_agent_model(folder / name, seed=seed)
        teach(folder / name, [asked_twice(i) for i in range(4)], schemas(folder, "add"), steps)
    return folder


@pytest.fixture(scope="module")
def finished(project):
    return run(project, "finished"), traces(project, "finished")


def test_metrics_tell_turns_tools_and_why_episodes_ended(finished):
    steps, records = finished
    assert [metrics["step"] for metrics in steps] == [1, 2]
    for metrics in steps:
        mine = [record for record in records if record["step"] == metrics["step"]]
        stops = {name: value for name, value in metrics.items() if name.startswith("stop/")}
        assert stops == {
            f"stop/{reason}": sum(record["stop_reason"] == reason for record in mine) / len(mine)
            for reason in get_args(StopReason)
        }
        assert metrics["turns/mean"] == sum(max(record["turns"]) for record in mine) / len(mine)
        for name, key in (("tools/calls", "tool_calls"), ("tools/errors", "tool_errors")):
            assert metrics[name] == sum(record[key] for record in mine) / len(mine)
        assert metrics["rollouts/failed"] == 0
        assert 0 <= metrics["mismatch_kl"] < 1e-4
    assert any(metrics["tools/calls"] >= 1 for metrics in steps)


def test_calls_and_errors_are_counted_as_the_conversation_has_them(finished):
    for record in finished[1]:
        if record["stop_reason"] == "stop":  # every call was answered
            calls = [call for message in record["messages"] for call in message.get("tool_calls", [])]
            malformed = [message for message in record["messages"] if message.get("name") == "tool"]
            assert record["tool_calls"] == len(calls) + len(malformed) == len(said(record, "tool"))
            refused = [text for text in said(record, "tool") if not text.lstrip("-").isdigit()]
            assert record["tool_errors"] == len(refused)


def test_each_turn_has_its_own_teacher_kl(finished):
    steps, records = finished
    for metrics in steps:
        mine = [record for record in records if record["step"] == metrics["step"]]
        for turn in range(1, 4):
            kl = [
                value
                for record in mine
                for value, number in zip(record["kl"], record["turns"], strict=True)
                if number == turn
            ]
            assert metrics[f"teacher_kl/turn_{turn}"] == pytest.approx(sum(kl) / len(kl), abs=1e-5)


def test_ids_are_those_that_transformers_renders_from_the_messages(finished, project):
    """This template never changes earlier turns, so that the whole conversation rendered at once is a reference."""
    tokenizer = AutoTokenizer.from_pretrained(project / "student")
    tools = schemas(project, "add")
    compared = 0
    for record in finished[1]:
        if record["stop_reason"] != "stop" or record["tool_errors"]:
            continue  # a malformed call is not in the messages as it was written
        whole = tokenizer.apply_chat_template(record["messages"], tools=tools, tokenize=False)
        sampled = "".join(record["pieces"])
        if record["prompt_text"] + sampled + "\n" == whole:  # the student wrote its JSON as the template does
            ids = tokenizer.encode(whole, add_special_tokens=False)
            assert [*record["prompt_ids"], *record["ids"]] == ids[: -len(tokenizer.encode("\n"))]
            compared += max(record["turns"]) == 3
    assert compared >= len(finished[1]) // 4


def test_the_mask_is_on_what_stands_between_an_assistants_header_and_its_end(finished):
    for record in finished[1]:
        expected, turn, numbers, talking = [], 1, [], True
        behind = record["prompt_text"]
        for token, piece in zip(record["ids"], record["pieces"], strict=True):
            if not talking and behind.endswith("<|im_start|>assistant\n"):
                talking, turn = True, turn + 1
            expected.append(int(talking))
            numbers.append(turn if talking else 0)
            talking = talking and token != STOP
            behind += piece
        assert record["mask"] == expected
        assert record["turns"] == numbers
        assert [value is not None for value in record["trainer"]] == [bool(flag) for flag in expected]
        # what stands between turns is what the tools said
        glue = "".join(p for p, flag in zip(record["pieces"], expected, strict=True) if not flag)
        written = [
            f"<|im_start|>user\n<tool_response>{result}</tool_response><|im_end|>\n"
            for result in said(record, "tool")
        ]
        assert glue.replace("<|im_start|>assistant\n", "").replace(
            "\n<|im_start|>", "<|im_start|>"
        ) == "".join(written), record["messages"]


def test_logprobs_of_every_turn_are_those_of_transformers(finished, project):
    record = max(finished[1], key=lambda record: (record["step"] == 1, max(record["turns"])))
    ids = torch.tensor([record["prompt_ids"] + record["ids"]])
    start = len(record["prompt_ids"])
    for column, name in (("trainer", "student"), ("sampler", "student"), ("teacher", "teacher")):
        model = AutoModelForCausalLM.from_pretrained(project / name)
        with torch.no_grad():
            logp = model(ids).logits.double().log_softmax(-1)[0, start - 1 : -1]
        expected = logp.gather(1, ids[0, start:, None])[:, 0]
        for got, wanted, flag in zip(record[column], expected, record["mask"], strict=True):
            if flag:
                assert got == pytest.approx(float(wanted), abs=1e-4)


def test_rows_with_and_without_tools_train_together(project):
    rows = agent_rows(4) * 2
    rows = [dict(row) for row in rows]
    for row in rows[::2]:
        row["tools"] = []
    write_rows(project / "mixed.jsonl", rows)
    steps = run(project, "mixed", "data.train_file=mixed.jsonl")
    records = traces(project, "mixed")
    plain = [record for record in records if record["line"] % 2 == 1]
    assert len(plain) == len(records) // 2
    assert all("add:" not in record["prompt_text"] and max(record["turns"]) == 1 for record in plain)
    assert not any(said(record, "tool") or record["tool_calls"] for record in plain)
    agents = [record for record in records if record not in plain]
    assert all("add:" in record["prompt_text"] for record in agents)
    calls = sum(record["tool_calls"] for record in agents)
    assert calls > 0
    # over the rows that have tools: the others do not dilute it
    assert sum(metrics["tools/calls"] for metrics in steps) / len(steps) == pytest.approx(calls / len(agents))


def test_killed_in_the_middle_and_resumed_equals_no_interruption(project):
    """One rollout at a time: which rollouts share a forward pass depends on when tools answer otherwise."""
    settings = ["data.batch_size=1", "data.group_size=1", "trainer.max_steps=4"]
    run(project, "whole", *settings)
    code = f"""
        from pathlib import Path
        from rnow_core.jobs.train import train
        from rnow_core.stop import StopSignal
        train(Path({str(project)!r}), overrides={settings!r}, name="killed", resume=False, emit=lambda event: None,
              stop=StopSignal())
    """
    folder = project / "runs" / "killed"
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], start_new_session=True)
    try:
        while not (folder / "checkpoints" / "step_000002").exists():
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        below = psutil.Process(child.pid).children(recursive=True)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    _, alive = psutil.wait_procs(below, timeout=20)
    assert below
    assert not alive, "a tool's process outlived the run"
    run(project, "killed", resume=True)
    last = Path("checkpoints", "step_000004", "adapter_model.safetensors")
    got, wanted = (load_file(project / "runs" / name / last) for name in ("killed", "whole"))
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    kept = [
        [
            {name: value for name, value in record.items() if name != "seconds"}
            for record in traces(project, name)
        ]
        for name in ("killed", "whole")
    ]
    assert kept[0] == kept[1]


def test_a_tool_that_a_row_invents_is_found_before_the_run(project):
    write_rows(project / "unknown.jsonl", [{**agent_rows(1)[0], "tools": ["subtract"]}])
    with pytest.raises(FindingsError) as error:
        run(project, "unknown", "data.train_file=unknown.jsonl")
    assert any("subtract" in finding.message for finding in error.value.findings)
