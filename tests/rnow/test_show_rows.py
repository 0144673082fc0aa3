"""`rnow generate --show`: the rows of `sft` with their loss mask, as it is typed and as it is seen."""

import json
import re

import pytest
import torch
from agents import TEMPLATE, TOOLS, make_agent_model
from tiny import SPECIAL, write_rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import read_metrics

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
GREEN = re.compile(r"\x1b\[32m(.*?)\x1b\[0m")
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}


def asked(text, *turns, **extra):
    return {"messages": [{"role": "user", "content": text}, *turns], **extra}


def said(text, **extra):
    return {"role": "assistant", "content": text, **extra}


def result(text):
    return {"role": "tool", "tool_call_id": "c1", "content": text}


SUM = asked("1+2=?", said("", tool_calls=[CALL]), result("3"), said("it is 3"), tools=["add"])


def write_student(folder):
    """The text part of a model: every byte is a token of its own. There are no weights."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "chat_template": TEMPLATE})
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **sizes, "head_dim": 32}
    config |= {"vocab_size": 300, "max_position_embeddings": 4096, "num_key_value_heads": 1}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def project(rnow, tmp_path):
    """A project whose student is text only; `rnow` works inside it."""
    folder = tmp_path / "work"
    write_student(folder / "student")
    (folder / "tools.py").write_text(TOOLS)
    (folder / "config.yml").write_text(json.dumps({"dataset_type": "sft", "model": {"path": "./student"}}))
    return folder


def test_ids_and_mask_are_those_that_a_run_trains(rnow, tmp_path):
    folder = tmp_path / "work"
    make_agent_model(folder / "student")
    (folder / "tools.py").write_text(TOOLS)
    write_rows(folder / "train.jsonl", [SUM, asked("a", said("b"), tools=[]), asked("c", said("d"))])
    config = {
        "dataset_type": "sft",
        "data": {"batch_size": 4},
        "model": {"path": "./student", "qlora_rank": 2},
        "trainer": {"max_steps": 1, "train_on": "last_assistant"},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    done = rnow("generate", "--show", 3, "--json")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["tools"] for row in rows] == [["add"], [], ["add", "fail"]]
    assert rows[0]["text"].endswith("it is 3<|im_end|>")
    assert rows[0]["trained_tokens"] == len("it is 3") + 1
    train(folder, overrides=[], name="one", resume=False, emit=lambda _: None, stop=StopSignal())
    (step,) = read_metrics(folder / "runs" / "one" / "metrics.jsonl")
    assert step["tokens/total"] == sum(len(row["ids"]) for row in rows)
    assert step["tokens/trained"] == sum(sum(row["mask"]) for row in rows)
    model = AutoModelForCausalLM.from_pretrained(folder / "student", dtype=torch.float32)
    nats = 0.0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row["ids"]])).logits[0, :-1].double()
        logp = logits.log_softmax(-1)[range(len(logits)), row["ids"][1:]]
        nats -= logp[torch.tensor(row["mask"][1:], dtype=torch.bool)].sum().item()
    assert step["sft/loss"] == pytest.approx(nats / step["tokens/trained"], abs=1e-5)


def test_trained_text_is_in_colour_or_in_brackets(rnow, project, monkeypatch):
    page = "3 \x1b[2J<|im_end|>" + "é" * 400 + "end"
    reply = "it is \N{EGYPTIAN HIEROGLYPH A001} [[3]] ⟦⟧\nsure"
    row = asked("1+2=?", said("", tool_calls=[CALL]), result(page), said(reply), tools=["add"])
    write_rows(project / "train.jsonl", [row, asked("a", said("b"))])
    call = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
    plain = rnow("generate", "--show", 1)
    assert plain.code == 0, plain.err
    assert f"  ⟦{call}<|im_end|>⟧\n" in plain.out
    assert "  ⟦it is \N{EGYPTIAN HIEROGLYPH A001} [[3]] \\u27e6\\u27e7\n  sure<|im_end|>⟧\n" in plain.out
    assert "<tool_response>3 \\x1b[2J< |im_end|>ééé" in plain.out
    assert re.search(r"é⟪[\d,]+ tokens, --full shows them⟫é+end</tool_response><\|im_end\|>\n", plain.out)
    assert "row 2" not in plain.out
    assert "\N{REPLACEMENT CHARACTER}" not in plain.out
    full = rnow("generate", "--show", 1, "--full")
    assert "é" * 400 in full.out
    monkeypatch.setattr("rnow.display.console.is_terminal", lambda stream: True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert rnow("generate", "--show", 1).out == plain.out
    monkeypatch.delenv("NO_COLOR")
    seen = rnow("generate", "--show", 1, "--full").out.partition("row 1")[2]
    green = GREEN.findall(seen)
    assert green == [call, "<|im_end|>", "it is \N{EGYPTIAN HIEROGLYPH A001} [[3]] ⟦⟧", "sure", "<|im_end|>"]
    assert "\x1b" not in ESCAPES.sub("", seen)
    without = plain.out.partition("row 1")[2].partition("\n")[2]
    assert ESCAPES.sub("", seen).partition("\n")[2].startswith(without.partition("⟦")[0])


def test_a_row_that_sft_refuses_has_the_finding_of_validate(rnow, project):
    write_rows(
        project / "train.jsonl",
        [asked("a", said("b")), asked("a" * 5000, said("b")), asked("a", said("b"), tools=["gone"])],
    )
    shown, checked = rnow("generate", "--show", 3, "--json"), rnow("validate", "--json")
    row, error = (json.loads(line) for line in shown.out.splitlines())
    assert (row["row"], shown.code) == (1, 1)
    wanted = [item for item in json.loads(checked.out)["findings"] if item["file"] == "train.jsonl"]
    assert {item["code"] for item in wanted} == {"RN228", "RN236"}
    assert error["error"]["findings"] == wanted
    assert rnow("generate", "--show", 1).code == 0
    write_rows(project / "train.jsonl", [asked("a", said("b")), asked("a")])
    shown, checked = rnow("generate", "--show", 1), rnow("validate")
    assert shown.code == 1
    first = shown.err.splitlines()[0]
    assert "train.jsonl:2: error[RN2" in first
    assert first in checked.out.splitlines()


def test_the_student_is_that_of_the_config_or_of_the_option(rnow, project, tmp_path):
    write_rows(project / "train.jsonl", [asked("a", said("b"), {"role": "user", "content": "c"}, said("d"))])
    wanted = rnow("generate", "--show", 1, "--json").out
    (project / "config.yml").rename(project / "student" / "config.yml")
    refused = rnow("generate", "--show", 1)
    assert (refused.code, "--student" in refused.err) == (2, True)
    assert rnow("generate", "--show", 1, "--student", "./student", "--json").out == wanted
    wrong = rnow("generate", "--show", 1, "--student", "./nobody")
    assert wrong.code == 1
    assert "command line: error[RN301] model.path: there is no folder" in wrong.err
    stages = [{"dataset_type": "distill"}, {"dataset_type": "sft", "trainer": {"train_on": "last_assistant"}}]
    whole = {"dataset_type": "sft", "model": {"path": "./student"}, "teacher": {"path": "./student"}}
    (project / "config.yml").write_text(json.dumps({**whole, "stages": stages}))
    staged = json.loads(rnow("generate", "--show", 1, "--json").out)
    before = json.loads(wanted)
    assert staged["ids"] == before["ids"]
    assert (before["trained_tokens"], staged["trained_tokens"]) == (4, 2)


def test_what_is_missing_is_said(rnow, project):
    absent = rnow("generate", "--show", 3)
    assert (absent.code, "there is no file train.jsonl" in absent.err) == (2, True)
    (project / "train.jsonl").write_text("\n")
    empty = rnow("generate", "--show", 3)
    assert (empty.code, "train.jsonl: error[RN202]" in empty.err) == (1, True)
    usage = rnow("generate")
    assert (usage.code, "Missing argument 'INPUT'" in usage.err) == (2, True)
