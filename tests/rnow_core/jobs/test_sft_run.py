"""Whole runs of `sft` on tiny models: what they train, what they leave, what they refuse."""

import json
import math
from pathlib import Path

import pytest
import torch
from agents import TOOLS, call_text, make_agent_model
from peft import PeftModel
from ruamel.yaml import YAML
from tiny import make_model, write_rows
from transformers import AutoModelForCausalLM

from rnow.guard import guarded
from rnow_core.data.bridge import conversation_ids
from rnow_core.data.renderer import Renderer
from rnow_core.errors import FindingsError, Interrupted, RunFailed, UsageError
from rnow_core.jobs.train import train
from rnow_core.jobs.trial import TrialRequest, try_rollouts
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import read_metrics


def answer(i: int) -> dict:
    """A question and its answer."""
    return {
        "messages": [
            {"role": "user", "content": f"{i}+{i}=?"},
            {"role": "assistant", "content": f"{2 * i}"},
        ],
        "metadata": {"teacher": "openai/gpt-4o-mini", "turns": 1},
    }


def write_project(folder: Path, rows: list[dict], **sections) -> Path:
    """A project with the keys of the document's SFT config, and a tiny student."""
    make_model(folder / "student", seed=1)
    write_rows(folder / "train.jsonl", rows)
    config = {
        "project_name": "Distilled Agent",
        "dataset_type": "sft",
        "data": {"train_file": "train.jsonl", "batch_size": 4},
        "model": {"path": "./student", "qlora_rank": 4},
        "trainer": {"num_epochs": 3, "learning_rate": 0.01},
    }
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values}
    with (folder / "config.yml").open("w") as file:
        YAML().dump(config, file)
    return folder


def run(folder: Path, *overrides: str, name: str | None = None):
    events = []
    summary = train(
        folder, overrides=list(overrides), name=name, resume=False, emit=events.append, stop=StopSignal()
    )
    return summary, events


def steps_of(events) -> list[dict]:
    return [event.fields["metrics"] for event in events if event.kind == "step"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Ten rows, so that an epoch's last batch has two; val.jsonl is held out."""
    folder = write_project(
        tmp_path_factory.mktemp("sft"),
        [answer(i) for i in range(10)],
        data={"val_file": "val.jsonl"},
        trainer={"save_step": 3, "eval_step": 3},
    )
    write_rows(folder / "val.jsonl", [answer(i) for i in range(10, 14)])
    return folder


@pytest.fixture(scope="module")
def finished(project):
    summary, events = run(project, name="finished")
    return project / "runs" / "finished", summary, events


def test_every_row_of_every_epoch_is_trained(finished):
    folder, summary, events = finished
    steps = steps_of(events)
    assert [step["conversations"] for step in steps] == [4, 4, 2] * 3
    assert summary["steps"] == 9
    for step in steps:
        assert step["tokens/trained"] < step["tokens/total"]
        assert step["tokens/per_second"] > 0
        assert step["sft/bits_per_byte"] > 0
        assert not any(name.startswith(("teacher_kl", "reward", "advantage")) for name in step)
    names = [path.name for path in sorted((folder / "checkpoints").iterdir())]
    assert names == [f"step_{step:06d}" for step in (0, 3, 6, 9)]
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"


def naive_loss(model, renderer: Renderer, rows: list[dict]) -> tuple[float, int]:
    """Summed float64 cross-entropy and number of the trained tokens, one conversation after the other."""
    nats, tokens = 0.0, 0
    for row in rows:
        ids, mask = conversation_ids(renderer, row["messages"])
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        labels = torch.tensor([i if trained else -100 for i, trained in zip(ids, mask, strict=True)])
        nats += torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum").item()
        tokens += sum(mask)
    return nats, tokens


def test_losses_are_those_of_a_naive_cross_entropy(finished, project):
    folder, summary, _ = finished
    renderer = Renderer.load(project / "student")
    model = AutoModelForCausalLM.from_pretrained(project / "student", dtype=torch.float32)
    held_out = [answer(i) for i in range(10, 14)]
    nats, tokens = naive_loss(model, renderer, held_out)
    text = "".join(row["messages"][-1]["content"] for row in held_out)
    assert summary["loss_before"] == pytest.approx(nats / tokens, abs=1e-5)
    assert summary["bits_per_byte_before"] == pytest.approx(nats / math.log(2) / len(text), abs=1e-5)

    trained = PeftModel.from_pretrained(model, folder / "checkpoints" / "step_000009")
    nats, tokens = naive_loss(trained, renderer, held_out)
    assert summary["loss_after"] == pytest.approx(nats / tokens, abs=1e-5)
    assert summary["loss_after"] < summary["loss_before"]


def test_held_out_loss_is_measured_before_between_and_after(finished):
    folder, _, _ = finished
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "eval/val/loss" in row]
    assert [row["step"] for row in rows] == [0, 3, 6, 9]
    assert {row["eval/val/conversations"] for row in rows} == {4}


def test_three_rows_make_a_batch_of_four(tmp_path):
    folder = write_project(tmp_path, [answer(i) for i in range(3)])
    summary, events = run(folder, "trainer.num_epochs=20", "trainer.learning_rate=0.05")
    steps = steps_of(events)
    assert [step["conversations"] for step in steps] == [3] * 20
    assert summary["train_loss_last"] < 0.5 * summary["train_loss_first"]
    assert summary["loss_before"] is None


def test_the_first_step_is_the_mean_over_the_batch_whatever_the_micro_batches(project):
    losses = [
        steps_of(run(project, "trainer.max_steps=2", f"trainer.micro_batch_tokens={size}")[1])
        for size in (16, 4096)
    ]
    for small, large in zip(*losses, strict=True):
        assert small["sft/loss"] == pytest.approx(large["sft/loss"], abs=1e-5)
        assert small["grad_norm"] == pytest.approx(large["grad_norm"], rel=1e-3)


VARIANTS = {
    "full fine-tuning": ["model.qlora_rank=0", "trainer.learning_rate=0.001"],
    "schedule": ["trainer.lr_schedule=cosine", "trainer.warmup_steps=1"],
    "held-out share": ["data.val_file=null", "data.val_split=0.25"],
    "checkpointing": ["trainer.gradient_checkpointing=true"],
    "two passes": ["trainer.updates_per_batch=2"],
    "two ranks": ["resources.trainer_data_parallel=2"],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants_train(project, overrides):
    summary, events = run(project, *overrides, "trainer.max_steps=3")
    assert all(math.isfinite(step["sft/loss"]) for step in steps_of(events))
    assert summary["loss_after"] != summary["loss_before"]


def agent_row(i: int) -> dict:
    """A conversation as the document's generator writes it: arguments as text, tools by name."""
    call = {"name": "add", "arguments": json.dumps({"a": i, "b": 1})}
    return {
        "messages": [
            {"role": "user", "content": f"{i}+1=?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": str(i + 1)},
            {"role": "assistant", "content": f"it is {i + 1}"},
        ],
        "metadata": {"teacher": "openai/gpt-4o-mini", "turns": 2},
        "tools": ["add"],
    }


@pytest.fixture
def agent_project(tmp_path):
    folder = write_project(tmp_path, [agent_row(i) for i in range(8)])
    make_agent_model(folder / "student")
    (folder / "tools.py").write_text(TOOLS)
    return folder


def test_calls_are_trained_and_tool_results_are_not(agent_project):
    _, events = run(agent_project, "trainer.max_steps=1", "data.batch_size=8")
    _, last = run(
        agent_project, "trainer.max_steps=1", "data.batch_size=8", "trainer.train_on=last_assistant"
    )
    replies = sum(len(f"it is {i + 1}") + 1 for i in range(8))
    calls = sum(len(call_text("add", a=i, b=1)) + 1 for i in range(8))
    (step,), (last_step,) = steps_of(events), steps_of(last)
    assert step["tokens/trained"] == replies + calls
    assert last_step["tokens/trained"] == replies
    assert step["tokens/total"] == last_step["tokens/total"]


def test_other_schemas_are_other_ids_and_cannot_be_resumed(agent_project):
    stop = StopSignal()

    def emit(event):
        if event.kind == "step":
            stop.request()

    with pytest.raises(Interrupted):
        train(agent_project, overrides=[], name="stopped", resume=False, emit=emit, stop=stop)
    (agent_project / "tools.py").write_text(TOOLS.replace("Add two", "Sum two"))
    with pytest.raises(RunFailed, match=r"tools\.py changed"):
        train(agent_project, overrides=[], name="stopped", resume=True, emit=emit, stop=StopSignal())


def test_the_command_line_shows_loss_and_summary(agent_project, capsys, monkeypatch):
    monkeypatch.chdir(agent_project)
    assert guarded(["run", "trainer.max_steps=2", "data.val_split=0.25"]) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == 2
    assert all("sft/loss" in line and "tokens/s" in line and "teacher" not in line for line in steps)
    assert any(line.startswith("eval at step 0  val/loss") for line in lines)
    assert any(line.split()[:1] == ["loss_after"] for line in lines)


def refused(folder: Path, *overrides: str):
    with pytest.raises(FindingsError) as error:
        run(folder, *overrides)
    assert not (folder / "runs").exists()
    return error.value.findings


def test_named_tools_without_tools_py_are_an_error(agent_project):
    (agent_project / "tools.py").unlink()
    findings = refused(agent_project)
    assert {finding.code for finding in findings} == {"RN236"}
    assert (findings[0].file, findings[0].line) == ("train.jsonl", 1)
    assert "tools.py" in findings[0].hint


def test_a_conversation_beyond_the_window_is_an_error_at_its_line(tmp_path):
    long = answer(1)
    long["messages"][1]["content"] = "1" * 200
    folder = write_project(tmp_path, [answer(0), long])
    (finding,) = refused(folder)
    assert (finding.code, finding.file, finding.line) == ("RN228", "train.jsonl", 2)
    assert "128" in finding.message


def test_a_prompt_without_an_answer_is_an_error(tmp_path):
    folder = write_project(tmp_path, [{"messages": [{"role": "user", "content": "1+1=?"}]}])
    (finding,) = refused(folder)
    assert (finding.line, "assistant" in finding.message) == (1, True)


def test_rollouts_of_given_conversations_cannot_be_tried(project):
    with pytest.raises(UsageError, match="sft"):
        try_rollouts(TrialRequest(project), lambda event: None)
