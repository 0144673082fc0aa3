"""Whole runs of context distillation, checked in float64 with nothing but transformers."""

import json
import math
from pathlib import Path

import pytest
import torch
from agent_runs import run, schemas, traces, write_config
from agents import agent_rows, make_agent_model, write_agent_project
from tiny import make_project
from transformers import AutoModelForCausalLM, AutoTokenizer

CONTEXT = "think about {{ messages[0].content }}\n\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    taus = {"adv_tau": 0.5, "teacher_tau": 1.0, "student_tau": 0.5, "clip_min": -2, "clip_max": 2}
    teacher = {"path": "self", "context": CONTEXT}
    return make_project(
        folder, rows=4, teacher=teacher, algorithm=taus, data={"val_file": None}, trainer={"max_steps": 1}
    )


class Base:
    """The student's base weights in float64, behind transformers' own chat template."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)

    def prompt(self, messages, tools=None):
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, return_dict=False
        )

    @torch.no_grad()
    def logprobs(self, prompt, response):
        ids = torch.tensor([[*prompt, *response]])
        logp = torch.log_softmax(self.model(ids).logits[0, :-1], -1)
        return logp.gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0].tolist()


def in_context(messages, text):
    first = next(i for i, message in enumerate(messages) if message["role"] == "user")
    return [
        {**message, "content": text + message["content"]} if i == first else message
        for i, message in enumerate(messages)
    ]


def sampled(record, values):
    return [value for value, flag in zip(values, record["mask"], strict=True) if flag]


def mean_and_deviation(values):
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def test_the_advantages_and_metrics_of_a_hybrid_run(project):
    (metrics,) = run(project, "hybrid")
    base, kl, reward, distilled, weights = Base(project / "student"), [], [], [], []
    records = traces(project, "hybrid")
    for record in records:
        question = record["messages"][:1]
        seen = in_context(question, f"think about {question[0]['content']}\n\n")
        assert record["prompt_ids"] == base.prompt(question)
        assert base.tokenizer(record["teacher_prompt_text"])["input_ids"] == base.prompt(seen)
        teacher = base.logprobs(base.prompt(seen), record["ids"])
        old = base.logprobs(record["prompt_ids"], record["ids"])  # an adapter at its start changes nothing
        assert record["teacher"] == pytest.approx(teacher, abs=1e-4)
        group = [other["reward"] for other in records if other["row"] == record["row"]]
        task = record["reward"] - sum(group) / len(group)
        parts = [min(2.0, max(-2.0, t - 0.5 * o)) for t, o in zip(teacher, old, strict=True)]
        assert record["advantage"] == pytest.approx([0.5 * task + part for part in parts], abs=1e-4)
        kl += [o - t for t, o in zip(teacher, old, strict=True)]
        reward += [0.5 * task] * len(old)
        distilled += parts
        weights += [min(2.0, math.exp(o - mu)) for o, mu in zip(old, record["sampler"], strict=True)]
    combined = [a + b for a, b in zip(reward, distilled, strict=True)]
    loss = -math.fsum(w * a for w, a in zip(weights, combined, strict=True)) / len(combined)
    expected = {
        "teacher_kl": mean_and_deviation(kl)[0],
        "combined_advantage": mean_and_deviation(combined)[0],
        "advantage/std": mean_and_deviation(combined)[1],
        "advantage/reward": mean_and_deviation(reward)[0],
        "advantage/reward_std": mean_and_deviation(reward)[1],
        "advantage/teacher": mean_and_deviation(distilled)[0],
        "advantage/teacher_std": mean_and_deviation(distilled)[1],
        "reward/mean": sum(record["reward"] for record in records) / len(records),
        "loss/policy": loss,
        "teacher/unscored_tokens": 0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert abs(metrics["teacher_kl"]) > 0.01


def test_without_the_context_the_teacher_is_the_student(project):
    (metrics,) = run(project, "without", "teacher.context=null")
    assert metrics["teacher_kl"] == pytest.approx(0.0, abs=1e-6)
    assert "teacher/unscored_tokens" not in metrics


PURE = ["algorithm.adv_tau=0", "algorithm.student_tau=1", "algorithm.skip_verification=true"]


@pytest.mark.parametrize(("name", "overrides"), [("pure", PURE), ("mixed", [])])
def test_a_context_that_leaves_no_room_for_all_of_a_reply(project, name, overrides):
    long = "think. " * 12
    (metrics,) = run(project, name, f"teacher.context='{long}'", "rollout.max_tokens=40", *overrides)
    unscored = metrics["teacher/unscored_tokens"]
    assert 0 < unscored < metrics["tokens/completion"]
    records = traces(project, name)
    assert unscored == sum(record["teacher"].count(None) for record in records)
    base = Base(project / "student")
    for record in records:
        fits = len(record["ids"]) - record["teacher"].count(None)
        seen = base.prompt(in_context(record["messages"][:1], long))
        assert len(seen) + fits <= 128
        expected = base.logprobs(seen, record["ids"][:fits])
        lost = [None] * (len(record["ids"]) - fits)
        assert record["teacher"] == pytest.approx([*expected, *lost], abs=1e-4)
        alone = record["advantage"][fits:]
        if name == "pure":
            assert alone == [None] * len(alone)  # not trained at all: not in the loss's denominator
        else:
            assert alone == pytest.approx([0.5 * record["task_advantage"]] * len(alone), abs=1e-6)
    trained = metrics["tokens/completion"] - (unscored if name == "pure" else 0)
    assert metrics["tokens/trained"] == trained
    assert ("reward/mean" in metrics) == (name == "mixed")


def test_turns_and_tools_behind_a_context_that_stands_once(tmp_path):
    make_agent_model(tmp_path / "student", hidden=32, layers=1)
    first, second = agent_rows(2)
    second["teacher_context"] = "add with care: "
    system = {"role": "system", "content": "You are quick."}
    config = write_agent_project(
        tmp_path,
        rows=[{**first, "messages": [system, *first["messages"]]}, second],
        data={"val_file": None, "batch_size": 2, "group_size": 4},
        teacher={"path": "self", "context": "Add {{ tools[0] }}.\n\n"},
        algorithm={"adv_tau": 0, "teacher_tau": 1, "student_tau": 1},
        rollout={"max_turns": 3, "max_tokens": 100, "termination_policy": "max_turns"},
        trainer={"max_steps": 1},
    )
    write_config(tmp_path, config)
    (metrics,) = run(tmp_path, "agent")
    assert metrics["teacher/unscored_tokens"] == 0
    base, tools, turns = Base(tmp_path / "student"), schemas(tmp_path, "add"), 0
    for record in traces(tmp_path, "agent"):
        row = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[record["row"]])
        seen = in_context(row["messages"], row.get("teacher_context", "Add add.\n\n"))
        assert record["prompt_ids"] == base.prompt(row["messages"], tools)
        assert record["teacher_prompt_text"] == base.tokenizer.decode(base.prompt(seen, tools))
        turns = max(turns, *record["turns"])
        expected = sampled(record, base.logprobs(base.prompt(seen, tools), record["ids"]))
        assert sampled(record, record["teacher"]) == pytest.approx(expected, abs=1e-4)
        student = sampled(record, base.logprobs(record["prompt_ids"], record["ids"]))
        assert sampled(record, record["kl"]) == pytest.approx(
            [s - t for s, t in zip(student, expected, strict=True)], abs=2e-4
        )
    assert turns > 1
