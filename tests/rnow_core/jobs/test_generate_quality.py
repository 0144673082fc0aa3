"""Which answers `rnow generate` keeps: best of several, each once, none of the evaluation, none too long."""

import json
import os
import signal
import subprocess
import time
from collections import Counter, defaultdict
from itertools import count

import pytest
from generate_runs import TOOLS, add_call, asked_of, command, prompts_file, rows_of, run, start
from mcp_servers import running
from teacher_server import teacher
from tiny import make_tokenizer

from rnow_core.data.overlap import EvalTexts
from rnow_core.errors import FindingsError, RnowError, UsageError

REWARDS = '''
from rnow import reward, get_response

@reward
def thirds(args, messages) -> float:
    """0, 1 or 2: one answer in three is best, some are longer than others."""
    assert args.metadata["expected_answer"] in messages[0]["content"]
    return float(get_response(messages).count("x") % 3)

@reward
def never(args, messages) -> float:
    return -5.0
'''


FICKLE = """
@reward
def fickle(args, messages) -> float:
    with open("asked", "a+") as asked:
        asked.write("x")
        return float(asked.tell())
"""


def scored(row):
    return row["messages"][-1]["content"].count("x") % 3


def answers_of_many_lengths():
    """A tool call, then every answer longer than the one before; question 0 is refused."""
    number = count()

    def reply(prompt, turn, body):
        if prompt == "question 0":
            return {"role": "assistant", "content": "I'm sorry, but I can't help with that."}
        if turn == 0:
            arguments = json.dumps({"a": 1, "b": next(number)})
            return {"role": "assistant", "content": None, "tool_calls": [add_call(0, arguments)]}
        return {"role": "assistant", "content": "x" * next(number)}

    return reply


def test_the_best_of_several_answers_is_kept_and_a_kill_loses_and_doubles_nothing(tmp_path):
    prompts = 10
    rows = [{"prompt": f"question {i}", "metadata": {"expected_answer": str(i)}} for i in range(prompts)]
    given = [{**row, "rewards": ["thirds"]} for row in rows]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    (tmp_path / "tools.py").write_text(TOOLS)
    (tmp_path / "rewards.py").write_text(REWARDS)
    with teacher(reply=answers_of_many_lengths(), delay=0.1) as server:
        process = start(tmp_path, server, "--best-of", "3", "-c", "6")
        while process.poll() is None and sum(server.answered.values()) < 24:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        done = run(tmp_path, server, tools=tmp_path / "tools.py", best_of=3, concurrency=6)
        bought = sum(server.answered.values())
        journal = (tmp_path / "train.jsonl.journal").read_text()
        (tmp_path / "train.jsonl.journal").unlink()
        run(tmp_path, server, tools=tmp_path / "tools.py", best_of=3)
        assert sum(server.asked.values()) == bought, "rows that were not best answer no prompt"
    assert bought <= 3 * (2 * prompts - 1) + 6
    train, rejected = rows_of(tmp_path / "train.jsonl"), rows_of(tmp_path / "rejected.jsonl")
    assert Counter(map(asked_of, train)) == Counter(f"question {i}" for i in range(1, prompts))
    others = defaultdict(list)
    for row in rejected:
        others[asked_of(row)].append(row)
    for row in train:
        rest = others[asked_of(row)]
        assert [other["reason"] for other in rest] == ["not-best"] * 2
        assert (row["reward"], [other["reward"] for other in rest]) == (scored(row), list(map(scored, rest)))
        rank = (-row["reward"], len(row["messages"][-1]["content"]))
        assert all(rank <= (-other["reward"], len(other["messages"][-1]["content"])) for other in rest)
        assert set(row["metadata"]) == {"expected_answer", "teacher", "turns"}
    assert sorted(row["reason"] for row in others["question 0"]) == ["not-best"] * 2 + ["refused"]
    assert done["prompts"] == {"all": prompts, "train": prompts - 1, "rejected": 1}
    assert done["rejected"]["rows"] == len(rejected) == 2 * prompts + 1
    assert done["rejected"]["not-best"] == 2 * prompts
    journaled = [json.loads(line) for line in journal.splitlines()]
    answers = [r for r in journaled if r["kind"] == "answer"]
    assert max(Counter((r["id"], r.get("sample", 0), r["turn"]) for r in answers).values()) == 1
    assert done["cost"] == pytest.approx(0.001 * len(answers))


def test_the_choice_is_the_same_whatever_line_the_journal_ends_at(tmp_path, monkeypatch):
    """A verdict that is in the journal counts, though this judge changes its mind whenever it is asked."""
    prompts_file(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    fickle = REWARDS[: REWARDS.index("@reward")] + FICKLE
    (tmp_path / "rewards.py").write_text(fickle)
    number = count()

    def reply(prompt, turn, body):
        return {"role": "assistant", "content": f"answer {next(number)}"}

    journal, files = tmp_path / "train.jsonl.journal", ("train.jsonl", "rejected.jsonl")
    with teacher(reply=reply) as server:
        run(tmp_path, server, best_of=3)
        first = [rows_of(tmp_path / name) for name in files]
        lines = journal.read_text().splitlines(keepends=True)
        kinds = [json.loads(line)["kind"] for line in lines]
        assert Counter(kinds) == {"answer": 3, "ended": 3, "done": 3, "written": 1}
        for kept in range(kinds.index("done"), len(lines)):
            for name in files:
                (tmp_path / name).unlink()
            journal.write_text("".join(lines[:kept]) + '{"id":"torn')
            run(tmp_path, server, best_of=3)
            train, rejected = (rows_of(tmp_path / name) for name in files)
            assert train == first[0]
            assert sorted(rejected, key=str) == sorted(first[1], key=str)
    assert sum(server.answered.values()) == 3


def test_rewards_below_the_least_are_rejected_and_missing_ones_cost_nothing(tmp_path):
    prompts_file(tmp_path, 3)
    lengths = {"question 0": 5, "question 1": 3, "question 2": 1}
    (tmp_path / "tools.py").write_text(TOOLS)

    def reply(prompt, turn, body):
        return {"role": "assistant", "content": f"fine {'x' * lengths[prompt]}"}

    def again(**options):
        return run(tmp_path, server, tools=tmp_path / "tools.py", **options)

    with teacher(reply=reply) as server:
        for options in ({"best_of": 2}, {"min_reward": 1.0}):
            with pytest.raises(UsageError, match=r"needs rewards: .*rewards\.py does not exist"):
                again(**options)
        (tmp_path / "rewards.py").write_text(REWARDS.replace("-5.0", "0.0"))
        with pytest.raises(UsageError, match="--temperature 0"):
            again(best_of=2, temperature=0)
        (tmp_path / "wrong.jsonl").write_text('{"prompt": "q", "rewards": ["thirs"]}\n')
        with pytest.raises(FindingsError, match="thirs"):
            again(min_reward=1, source=tmp_path / "wrong.jsonl")
        assert not server.asked
        done = again(min_reward=1.5)
    assert [(asked_of(row), row["reward"]) for row in rows_of(tmp_path / "train.jsonl")] == [
        ("question 0", 2)
    ]
    rejected = {asked_of(row): (row["reason"], row["reward"]) for row in rows_of(tmp_path / "rejected.jsonl")}
    assert rejected == {"question 1": ("low-reward", 0.0), "question 2": ("low-reward", 1.0)}
    assert done["rejected"]["low-reward"] == 2


EVALUATED = (
    "Answer in one word, and think before you answer the question below. A farmer had seventeen sheep, "
    "all but nine of them ran away in the night; how many sheep does the farmer have left?"
)


def test_repeats_and_prompts_of_the_evaluation_are_told_and_left_out_on_demand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    continued = EVALUATED.replace("Answer in one word, and think", "Think") + " Explain your answer."
    fresh = EVALUATED[: EVALUATED.index("A farmer")] + "What is the capital of France?"
    texts = [EVALUATED.upper().replace(" ", "  "), continued, fresh, "plain", "plain"]
    rows = [{"prompt": text, "metadata": {"n": i}} for i, text in enumerate(texts)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yml").write_text(
        "dataset_type: sft\nmodel: {path: ./nowhere}\ndata: {val_file: val.jsonl}\n"
    )
    other = EVALUATED[: EVALUATED.index("A farmer")] + "Who wrote the book about the white whale?"
    held_out = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": fresh}]}
        for text in (EVALUATED, other)
    ]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    said = []
    with teacher() as server:
        done = run(tmp_path, server, emit=said.append, dedup=True, drop_overlap=True, num=5)
        assert sorted(prompt for prompt, _ in server.asked) == sorted([fresh, "plain"])
        rejected = {row["metadata"]["n"]: row["reason"] for row in rows_of(tmp_path / "rejected.jsonl")}
        assert rejected == {0: "eval-overlap", 1: "eval-overlap", 4: "duplicate"}
        assert (done["overlap"]["exact"], done["overlap"]["near"]) == (1, 1)
        assert done["prompts"] == {"all": 5, "repeats": 1, "train": 2, "rejected": 3}
        assert "there is no folder './nowhere'" in done["student"]
        assert any("2 of 5 prompts are also in" in event.fields["message"] for event in said)
        kept = run(tmp_path, server, output=tmp_path / "all.jsonl", eval_file=tmp_path / "val.jsonl")
        assert (kept["train"]["rows"], kept["overlap"]["near"]) == (5, 1)
        (tmp_path / "config.yml").unlink()
        with pytest.raises(UsageError, match="there is no evaluation file"):
            run(tmp_path, server, drop_overlap=True)
        doubled = run(tmp_path, server, output=tmp_path / "all.jsonl", dedup=True)
    assert doubled["train"]["rows"] == 5, "what was answered before stays"


def test_equal_answers_to_prompts_with_different_variables_are_kept_once(tmp_path):
    rows = [{"prompt": "plain", "variables": {"n": i}} for i in range(3)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with teacher() as server:
        run(tmp_path, server, num=1)
        done = run(tmp_path, server, dedup=True)
    assert done["train"]["rows"] == len(rows_of(tmp_path / "train.jsonl")) == 1
    assert done["rejected"]["duplicate"] == 2
    assert sum(server.answered.values()) == 3


def test_short_questions_match_only_as_a_whole():
    texts = EvalTexts(["What is 2 + 2?", "  ", EVALUATED])
    assert texts.match("what  is 2 + 2?") == "exact"
    assert texts.match("What is 2 + 2? And 3 + 3?") is None
    assert texts.match("") is None
    assert texts.match(EVALUATED[60:]) == "near"


def student(folder, window):
    size = make_tokenizer(folder / "student")
    sizes = {"vocab_size": size, "hidden_size": 8, "num_hidden_layers": 1, "max_position_embeddings": window}
    (folder / "student" / "config.json").write_text(json.dumps({"model_type": "qwen3", **sizes}))


def test_rows_that_are_too_long_for_the_student_are_kept_apart(tmp_path, monkeypatch):
    """A character is a token; around a message are start, role, newline and end, and a newline between the two."""
    monkeypatch.chdir(tmp_path)
    prompts_file(tmp_path, 2)
    student(tmp_path, 500)
    around = len("question 0") + 8 + 1
    config = "dataset_type: sft\nmodel: {path: ./student}\nrollout: {max_context_window: 100}\n"
    (tmp_path / "config.yml").write_text(config)

    def reply(prompt, turn, body):
        return {"role": "assistant", "content": "a" * (100 - around + (prompt == "question 1"))}

    with teacher(reply=reply) as server:
        done = run(tmp_path, server)
        (tmp_path / "config.yml").write_text("dataset_type: sft\nmodel: {path: ./elsewhere}\n")
        wide = run(tmp_path, server, output=tmp_path / "wide.jsonl", student="./student")
        with pytest.raises(RnowError, match="there is no folder"):
            run(tmp_path, server, output=tmp_path / "x.jsonl", student="./none-such")
        (tmp_path / "tools.py").write_text(TOOLS)
        asked = sum(server.asked.values())
        with pytest.raises(RnowError, match="does not write the tool call of 'add'"):
            run(
                tmp_path,
                server,
                output=tmp_path / "x.jsonl",
                student="./student",
                tools=tmp_path / "tools.py",
            )
        assert sum(server.asked.values()) == asked
    assert done["student"] == "./student, 100 tokens"
    assert list(map(asked_of, rows_of(tmp_path / "train.jsonl"))) == ["question 0"]
    (row,) = rows_of(tmp_path / "rejected.jsonl")
    assert row["reason"] == "too-long-for-student"
    assert row["detail"] == "101 tokens as the student reads it, its window has 100"
    assert wide["train"]["rows"] == 2


def test_tools_in_a_file_of_another_name(tmp_path):
    prompts_file(tmp_path, 1)
    (tmp_path / "sums.py").write_text("def total(a, b):\n    return a + b\n")
    own = TOOLS.replace("from rnow.core", "from sums import total\nfrom rnow.core")
    (tmp_path / "arithmetic.py").write_text(own.replace("return a + b", "return total(a, b)"))

    def reply(prompt, turn, body):
        calls = {"tool_calls": [add_call(0, '{"a": 20, "b": 22}')]} if turn == 0 else {}
        return {"role": "assistant", "content": "done", **calls}

    with teacher(reply=reply) as server:
        run(tmp_path, server, tools=tmp_path / "arithmetic.py")
        (tmp_path / "my-tools.py").write_text(TOOLS)
        with pytest.raises(UsageError, match="cannot be imported"):
            run(tmp_path, server, tools=tmp_path / "my-tools.py")
    (row,) = rows_of(tmp_path / "train.jsonl")
    assert row["messages"][2]["content"] == "42"


def test_a_servers_session_that_a_kill_ended_is_brought_back(tmp_path):
    """Of two calls beside each other one was journaled: it is made again too, before the other one is made."""
    pytest.importorskip("mcp")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "go"}\n')
    (tmp_path / "tools.py").write_text("")
    flag = tmp_path / "flag"

    def call(number, name, **arguments):
        function = {"name": name, "arguments": json.dumps(arguments)}
        return {"id": f"call_{number}", "type": "function", "function": function}

    turns = [
        [call(0, "remember", word="one")],
        [call(1, "remember", word="two"), call(2, "wait_for", path=str(flag))],
        [call(3, "remember", word="three")],
    ]

    def reply(prompt, turn, body):
        if turn < len(turns):
            return {"role": "assistant", "content": "", "tool_calls": turns[turn]}
        return {"role": "assistant", "content": "done"}

    with running(tmp_path, "remember,wait_for", transport="legacy") as mcp, teacher(reply=reply) as server:
        config = f"dataset_type: sft\nmodel: {{path: ./none}}\nrollout: {{mcp_url: {mcp.url}}}\n"
        (tmp_path / "config.yml").write_text(config)
        process = start(tmp_path, server)
        journal = tmp_path / "train.jsonl.journal"
        while not (journal.exists() and '"kind":"tool","turn":1' in journal.read_text()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        flag.touch()
        run(tmp_path, server, tools=tmp_path / "tools.py")
        assert mcp.called() == ["one", "two", "one", "two", "three"]
    assert set(server.answered.values()) == {1}
    (row,) = rows_of(tmp_path / "train.jsonl")
    results = [message["content"] for message in row["messages"] if message["role"] == "tool"]
    assert results == ["one", "one two", "there", "one two three"]


def test_a_full_disk_says_how_this_command_goes_on(tmp_path):
    prompts_file(tmp_path, 30)
    with teacher() as server:
        words = command(tmp_path, server, "-t", "none", "-c", "2")
        limited = ["bash", "-c", 'ulimit -f 4 && exec "$@"', "-", *words]
        stopped = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True)
        assert stopped.returncode == 1
        assert "then continue with the same command" in " ".join(stopped.stderr.split())
        assert "rnow run" not in stopped.stderr
        run(tmp_path, server)
    assert Counter(map(asked_of, rows_of(tmp_path / "train.jsonl"))) == Counter(
        f"question {i}" for i in range(30)
    )
