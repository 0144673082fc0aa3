"""The off-distill template from `rnow init` to a better student: a teacher over real HTTP, real tools, tiny models."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import stand_in_crawl4ai_package
from agents import make_agent_model, teach, tool_call
from off_distill import make_project, web_site
from teacher_server import teacher
from tiny import write_rows

from rnow.guard import guarded
from rnow_core.data.rows import load_prompts
from rnow_core.env.tool_pool import inspect_tools

DRUGS = ("alba", "beno", "ciro", "dumi", "elva", "fona")
ASKED = ("drug", "what", "name", "find", "tell", "look")
PAIRS = [(word, number) for word in ASKED for number in range(len(DRUGS))]
HELD_OUT = [(word, number) for word, number in PAIRS if (ASKED.index(word) + number) % 3 == 0]
TRAINING = (
    *(
        "trainer.num_epochs=14",
        "trainer.learning_rate=0.01",
        "model.qlora_rank=8",
        "data.val_file=held_out.jsonl",
    ),
    *("rollout.max_tokens=120", "rollout.temperature=0.2", "eval.group_size=1"),
)
REWARDS = '''from rnow import reward, get_response


@reward
def right(args, messages) -> float:
    """1 for the expected answer."""
    return float(get_response(messages).strip() == args.metadata["expected_answer"])
'''


def question(word, number):
    return f"{word} {number}?"


def address(number):
    return f"https://pages.example/{number}"


def page(number):
    return f"# {DRUGS[number]}"


def conversation(word, number):
    """What the student can do from the start: it finds every page, and understands half of them."""
    answer = DRUGS[number] if number < 3 else "?"
    return [
        {"role": "user", "content": question(word, number)},
        {"role": "assistant", "content": "", "tool_calls": [tool_call("browse", url=address(number))]},
        {"role": "tool", "content": page(number)},
        {"role": "assistant", "content": answer},
    ]


def teaching(prompt, turn, body):
    """Browse, then say what the page says. `bad` prompts are refused, or go round in circles."""
    if prompt == "bad 1":
        return {"role": "assistant", "content": "I'm sorry, but I can't help with that."}
    number = int(prompt.split()[1].rstrip("?")) if prompt != "bad 2" else 0
    assert [tool["function"]["name"] for tool in body["tools"]] == ["browse"]
    if turn == 0 or prompt == "bad 2":
        call = {"name": "browse", "arguments": json.dumps({"url": address(number)})}
        return {"role": "assistant", "tool_calls": [{"id": f"c{turn}", "type": "function", "function": call}]}
    return {"role": "assistant", "content": body["messages"][-1]["content"].removeprefix("# ")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The project after its quick start: generated, validated, trained."""
    above = tmp_path_factory.mktemp("off-distill")
    project = make_project(above / "agent", "student=./student")
    tools = (project / "tools.py").read_text()
    (project / "tools.py").write_text(tools.replace("ALLOW_PRIVATE = False", "ALLOW_PRIVATE = True"))
    (project / "rewards.py").write_text(REWARDS)
    (project / ".env").write_text("OPENROUTER_API_KEY=sk-or-v1-test\n")
    rows = [(question(*pair), {"expected_answer": DRUGS[pair[1]]}) for pair in PAIRS if pair not in HELD_OUT]
    rows += [("bad 1", {"expected_answer": "x"}), ("bad 2", {"expected_answer": "x"})]
    write_rows(project / "prompts.jsonl", [{"prompt": text, "metadata": about} for text, about in rows])
    write_rows(project / "held_out.jsonl", [held_out(*pair) for pair in HELD_OUT])
    make_agent_model(project / "student", seed=1)
    briefly = [conversation(*pair) for pair in PAIRS[:18] if pair not in HELD_OUT]
    teach(project / "student", briefly, [info.schema() for info in inspect_tools(project)], 60)
    pages = {f"/{number}": f"<body>{page(number)}</body>" for number in range(len(DRUGS))}
    with (
        pytest.MonkeyPatch.context() as patch,
        web_site(pages) as (site, _),
        teacher(reply=teaching) as server,
    ):
        packages = stand_in_crawl4ai_package.install(above / "packages", site)
        patch.setenv("PYTHONPATH", str(packages))
        patch.chdir(project)
        generated = generate(project, server.url)
        again = guarded(["generate", "prompts.jsonl", "--base-url", server.url])
        answered = server.answered.total()
        assert guarded(["validate", *TRAINING]) == 0
        assert guarded(["run", *TRAINING, "--name", "sft"]) == 0
    return SimpleNamespace(
        project=project,
        generated=generated,
        again=again,
        answered=answered,
        summary=json.loads((project / "runs" / "sft" / "summary.json").read_text()),
        headers=server.headers,
    )


def held_out(word, number):
    """A row whose question the student answers before and after training, with its own tool calls."""
    about = {"expected_answer": DRUGS[number]}
    messages = [*conversation(word, number)[:-1], {"role": "assistant", "content": DRUGS[number]}]
    return {"messages": messages, "tools": ["browse"], "rewards": ["right"], "metadata": about}


def generate(project, url):
    command = [sys.executable, "generate_distillation_data.py", "prompts.jsonl", "--base-url", url]
    command += ["--model", "openai/gpt-4o-mini", "--tools", "tools.py", "--output", "train.jsonl"]
    return subprocess.run(command, cwd=project, env=os.environ, capture_output=True, text=True, timeout=120)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_held_out_accuracy_goes_up(made):
    before, after = made.summary["student_before"], made.summary["student_after"]
    assert 0 < before <= 0.6
    assert after >= before + 0.15
    assert made.summary["loss_after"] < made.summary["loss_before"]


def test_rows_have_the_document_s_form(made):
    assert made.generated.returncode == 0, made.generated.stderr
    rows = rows_of(made.project / "train.jsonl")
    asked = sorted(row["messages"][0]["content"] for row in rows)
    assert asked == sorted(question(*pair) for pair in PAIRS if pair not in HELD_OUT)
    for row in rows:
        number = int(re.search(r"\d", row["messages"][0]["content"]).group())
        user, call, result, answer = row["messages"]
        (made_call,) = call["tool_calls"]
        assert json.loads(made_call["function"]["arguments"]) == {"url": address(number)}
        assert (result["tool_call_id"], result["content"]) == (made_call["id"], page(number))
        assert (user["role"], answer["content"]) == ("user", DRUGS[number])
        about = {"expected_answer": DRUGS[number], "teacher": "openai/gpt-4o-mini", "turns": 2}
        assert {key: row["metadata"][key] for key in about} == about
        assert row["tools"] == ["browse"]
    reasons = {
        row["messages"][0]["content"]: row["reason"] for row in rows_of(made.project / "rejected.jsonl")
    }
    assert reasons == {"bad 1": "refused", "bad 2": "tool-loop"}
    assert {headers["authorization"] for headers in made.headers} == {"Bearer sk-or-v1-test"}


def test_running_it_again_asks_nothing(made):
    assert made.again == 0
    assert made.answered == len(made.headers)
    assert len(rows_of(made.project / "train.jsonl")) == len(PAIRS) - len(HELD_OUT)


def test_the_document_s_filter_works_on_the_rows(made, monkeypatch):
    monkeypatch.chdir(made.project)
    entries = [json.loads(line) for line in open("train.jsonl")]  # noqa: SIM115, PTH123
    filtered = [entry for entry in entries if not entry["messages"][-1].get("tool_calls")]
    assert len(filtered) == len(entries) > 0
    write_rows(made.project / "filtered.jsonl", filtered)
    assert len(
        load_prompts([made.project / "filtered.jsonl"], dataset_type="sft", need_rewards=False)
    ) == len(entries)
