"""`rnow generate` against a server that fails in every way: nothing is lost, doubled or bought twice."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from itertools import pairwise

import pytest
from generate_runs import (
    TOOLS,
    add_call,
    asked_of,
    command,
    prompts_file,
    rows_of,
    run,
    start,
    three_turns,
)
from teacher_server import Fault, teacher

from rnow_core.errors import FindingsError, Interrupted, RnowError, RunFailed, UsageError, WouldOverwrite
from rnow_core.models.adaptive_limit import NothingWorks
from rnow_core.models.chat_http import Broke, NotAccepted
from rnow_core.rollout.ask import BudgetReached
from rnow_core.stop import StopSignal
from rnow_core.track.lock import FileLock


def trouble(prompt, turn, attempt):
    """Every prompt's first attempts fail, each kind of failure in its turn."""
    kinds = [
        Fault(status=429, headers={"retry-after": "0.1"}),
        Fault(status=500),
        Fault(reset=True),
        Fault(cut=True),
        Fault(body={"error": {"code": 502, "message": "upstream"}}),
        Fault(body={"choices": []}),
        Fault(status=429),
        Fault(delay=0.3),
    ]
    number = int(prompt.rsplit(" ", 1)[1])
    return kinds[(number + attempt) % len(kinds)] if attempt <= 2 else None


def test_every_prompt_ends_once_whatever_the_server_does(tmp_path):
    prompts_file(tmp_path, 60)
    with teacher(trouble) as server:
        summary = run(tmp_path, server)
        again = run(tmp_path, server)
    rows = rows_of(tmp_path / "train.jsonl")
    assert Counter(map(asked_of, rows)) == Counter(f"question {i}" for i in range(60))
    assert set(server.answered.values()) == {1}
    assert summary["train"]["rows"] == again["train"]["rows"] == 60
    assert summary["requests"]["answers"] == 60
    assert summary["cost"] == again["cost"] == pytest.approx(0.06)
    first = next(row for row in rows if asked_of(row) == "question 7")
    assert first == {
        "messages": [
            {"role": "user", "content": "question 7"},
            {"role": "assistant", "content": "answer to question 7"},
        ],
        "metadata": {"expected_answer": "7", "teacher": "openai/gpt-4o-mini", "turns": 1},
        "tools": [],
    }


def test_a_429_halves_the_requests_and_its_wait_holds_for_all(tmp_path):
    prompts_file(tmp_path, 30)
    times, limits = [], []

    def script(prompt, turn, attempt):
        times.append(time.monotonic())
        return Fault(status=429, headers={"retry-after": "1"}) if len(times) == 1 else None

    with teacher(script, delay=0.05) as server:
        run(
            tmp_path,
            server,
            concurrency=2,
            emit=lambda event: limits.append(event.fields.get("throttled_s", 0)),
        )
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 0.85
    assert server.most_in_flight == 2
    assert max(limits) >= 0.9


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (Fault(status=402), Broke, "add credit"),
        (
            Fault(status=403, body={"error": {"message": "Key limit exceeded"}}),
            Broke,
            "raise the key's limit",
        ),
        (Fault(status=401), NotAccepted, "API key"),
        (Fault(status=404), NotAccepted, "--base-url"),
        (Fault(status=400), NotAccepted, "--model"),
        (Fault(body={"error": {"code": 402, "message": "no credit"}}), Broke, "goes on from here"),
    ],
    ids=["402", "key limit", "401", "404", "400", "402 inside a 200"],
)
def test_what_waiting_does_not_help_stops_at_once_and_the_same_command_goes_on(tmp_path, fault, error, said):
    prompts_file(tmp_path, 40)
    count = iter(range(1000))
    with teacher(lambda *_: fault if next(count) >= 20 else None, delay=0.02) as server:
        with pytest.raises(error) as caught:
            run(tmp_path, server)
        assert said in caught.value.hint
        assert sum(server.asked.values()) <= 20 + 2 * 8
        server.script = None
        run(tmp_path, server)
    assert len(rows_of(tmp_path / "train.jsonl")) == 40
    assert set(server.answered.values()) == {1}


def test_the_breaker_stops_what_never_succeeds(tmp_path):
    prompts_file(tmp_path, 5)
    with teacher(lambda *_: Fault(status=503)) as server, pytest.raises(NothingWorks, match="scripted 503"):
        run(tmp_path, server, breaker_minutes=0.02)
    assert rows_of(tmp_path / "train.jsonl") == rows_of(tmp_path / "rejected.jsonl") == []


def test_tools_are_called_and_the_rows_have_the_documents_format(tmp_path):
    prompts_file(tmp_path, 3)
    (tmp_path / "tools.py").write_text(TOOLS)
    with teacher(reply=three_turns) as server:
        run(tmp_path, server, tools=tmp_path / "tools.py", system="Be brief.")
    rows = {asked_of(row): row for row in rows_of(tmp_path / "train.jsonl")}
    row = rows["question 2"]
    assert row["messages"][0] == {"role": "system", "content": "Be brief."}
    assert row["messages"][2] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [add_call(0, '{"a": 2, "b": 0}')],
    }
    assert row["messages"][3] == {"role": "tool", "tool_call_id": "call_0", "content": "2"}
    assert row["messages"][-1]["content"] == "2 and 3"
    assert row["metadata"] == {"expected_answer": "2", "teacher": "openai/gpt-4o-mini", "turns": 3}
    assert row["tools"] == ["add"]
    assert server.bodies[0]["tools"][0]["function"]["name"] == "add"


BAD = {
    "question 0": ("truncated", lambda: {"content": "half an ans"}),
    "question 1": ("refused", lambda: {"content": "I'm sorry, but I can't help with that."}),
    "question 2": ("invalid-json", lambda: {"content": "", "tool_calls": [add_call(1, '{"a": 1,')]}),
    "question 3": ("tool-loop", lambda: {"content": "", "tool_calls": [add_call(1, '{"a": 1, "b": 1}')]}),
    "question 4": ("unfinished", lambda: {"content": ""}),
    "question 5": ("error", None),
    "question 6": ("too-long", None),
}


def test_rows_not_worth_training_on_are_kept_apart_with_the_reason(tmp_path):
    prompts_file(tmp_path, 60)
    (tmp_path / "tools.py").write_text(TOOLS)

    def script(prompt, turn, attempt):
        if prompt == "question 6":
            return Fault(status=400, body={"error": {"message": "maximum context length is 8192"}})
        if prompt == "question 5":
            return Fault(status=500)
        return Fault(finish="length") if prompt == "question 0" else Fault(delay=1.2)

    def reply(prompt, turn, body):
        _, message = BAD.get(prompt, (None, None))
        return {"role": "assistant", **(message() if message else {"content": "fine"})}

    with teacher(script, reply) as server:
        run(tmp_path, server, tools=tmp_path / "tools.py", concurrency=4)
    rejected = rows_of(tmp_path / "rejected.jsonl")
    assert {asked_of(row): row["reason"] for row in rejected} == {key: why for key, (why, _) in BAD.items()}
    assert len(rows_of(tmp_path / "train.jsonl")) == 60 - len(BAD)
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert calls == ["1+1"] * 3


def test_killed_again_and_again_it_ends_with_each_prompt_once(tmp_path):
    """In the middle of rollouts with tools, too: what is in the journal is not asked or called again."""
    count = 60
    prompts_file(tmp_path, count)
    (tmp_path / "tools.py").write_text(TOOLS)
    kills = 0
    with teacher(trouble, three_turns, delay=0.1) as server:
        for _ in range(40):
            before = Counter(_journaled(tmp_path, "answer"))
            asked = Counter(server.asked)
            process = start(tmp_path, server, "-c", "10")
            kill_at = sum(server.answered.values()) + 35
            while process.poll() is None and sum(server.answered.values()) < kill_at:
                time.sleep(0.01)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
            repeated = {key for key in server.asked - asked if before[key]}
            assert repeated == set()
            if process.returncode == 0:
                break
        assert process.returncode == 0, process.stderr.read()
    assert kills >= 2
    rows = rows_of(tmp_path / "train.jsonl")
    assert Counter(map(asked_of, rows)) == Counter(f"question {i}" for i in range(count))
    assert rows_of(tmp_path / "rejected.jsonl") == []
    assert max(Counter(_journaled(tmp_path, "answer")).values()) == 1
    assert sum(server.answered.values()) <= 3 * count + kills * 10
    assert all(row["messages"][-1]["content"].count("and") == 1 for row in rows)


def _journaled(folder, kind):
    """(prompt, turn) of the journal's complete records."""
    from rnow_core.data.prompt_file import load_source

    path = folder / "train.jsonl.journal"
    names = {item.id: item.prompt.messages[-1]["content"] for item in load_source(folder / "prompts.jsonl")}
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    records = [json.loads(line) for line in lines]
    return [(names[record["id"]], record["turn"]) for record in records if record["kind"] == kind]


def test_ctrl_c_saves_what_is_under_way_and_the_same_command_goes_on(tmp_path):
    prompts_file(tmp_path, 60)
    with teacher(delay=0.4) as server:
        process = start(tmp_path, server, "-c", "4", "-t", "none")
        while sum(server.answered.values()) < 8:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "goes on from here" in said
        assert sum(server.answered.values()) == len(rows_of(tmp_path / "train.jsonl")) < 60
        done = subprocess.run(
            command(tmp_path, server, "-t", "none", "--json"), cwd=tmp_path, capture_output=True, text=True
        )
    assert done.returncode == 0
    assert set(server.answered.values()) == {1}
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["event"] == "run_finished"
    assert last["summary"]["train"]["rows"] == 60


def test_a_file_without_a_journal_is_read_and_equal_prompts_are_counted(tmp_path):
    path = prompts_file(tmp_path, 4)
    path.write_text(path.read_text() * 2)
    with teacher() as server:
        run(tmp_path, server, num=5)
        (tmp_path / "train.jsonl.journal").unlink()
        text = (tmp_path / "train.jsonl").read_text()
        first, _, rest = text.partition("\n")
        bare = {key: value for key, value in json.loads(first).items() if key == "messages"}
        (tmp_path / "train.jsonl").write_text(f"{json.dumps(bare)}\n{rest}".rstrip("\n"))
        run(tmp_path, server)
    rows = rows_of(tmp_path / "train.jsonl")
    assert Counter(map(asked_of, rows)) == {f"question {i}": 2 for i in range(4)}
    assert sum(server.answered.values()) == 8


def test_a_second_process_on_one_output_stops(tmp_path):
    prompts_file(tmp_path, 1)
    lock = FileLock(tmp_path / ".train.jsonl.lock")
    try:
        with teacher() as server, pytest.raises(WouldOverwrite, match=f"pid {os.getpid()}"):
            run(tmp_path, server)
        assert not server.asked
    finally:
        lock.release()


def test_budgets_are_kept_and_a_dry_run_forecasts_the_rest(tmp_path):
    prompts_file(tmp_path, 40)
    with teacher(delay=0.05) as server:
        tried = run(tmp_path, server, dry_run=5)
        assert tried["train"]["rows"] == 5
        assert tried["forecast"]["prompts"] == 35
        assert tried["forecast"]["dollars"] == pytest.approx(0.035)
        assert tried["forecast"]["tokens_read"] == 350
        with pytest.raises(BudgetReached, match="--max-cost"):
            run(tmp_path, server, max_cost=0.0205)
        assert sum(server.answered.values()) == len(rows_of(tmp_path / "train.jsonl")) <= 20
        server.delay = 0.5
        with pytest.raises(RnowError, match="--max-minutes"):
            run(tmp_path, server, max_minutes=0.001)
        server.delay, server.cost = 0.0, None
        with pytest.raises(RunFailed, match="does not say what an answer costs"):
            run(tmp_path, server, max_cost=1.0)
        done = run(tmp_path, server, max_cost=1.0, price=(100.0, 100.0))
    assert done["train"]["rows"] == 40
    assert set(server.answered.values()) == {1}


def test_a_stop_before_the_first_answer(tmp_path):
    prompts_file(tmp_path, 3)
    stop = StopSignal()
    stop.request()
    with teacher(delay=0.5) as server, pytest.raises(Interrupted):
        run(tmp_path, server, stop)


def test_the_key_and_the_provider_are_sent_and_not_saved(tmp_path, monkeypatch):
    prompts_file(tmp_path, 1)
    monkeypatch.setenv("RNOW_TEST_KEY", "sk-very-secret")
    with teacher() as server:
        run(tmp_path, server, key_env="RNOW_TEST_KEY", provider="DeepInfra, Together")
    assert server.headers[0]["authorization"] == "Bearer sk-very-secret"
    assert server.bodies[0]["provider"] == {
        "order": ["DeepInfra", "Together"],
        "allow_fallbacks": False,
        "require_parameters": True,
    }
    journal = (tmp_path / "train.jsonl.journal").read_text()
    assert '"providers":["Stand-in"]' in journal
    assert "very-secret" not in journal


def test_mistakes_are_found_before_anything_is_asked(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "ok"}\n{"prompt": 3}\n{"metadata": {}}\n[1\n')
    with teacher() as server:
        with pytest.raises(FindingsError) as caught:
            run(tmp_path, server)
        assert [finding.line for finding in caught.value.findings] == [2, 3, 4]
        prompts_file(tmp_path, 1)
        with pytest.raises(UsageError, match="does not exist"):
            run(tmp_path, server, tools=tmp_path / "tools.py")
        (tmp_path / "tools.py").write_text(TOOLS)
        path.write_text('{"prompt": "ok", "tools": ["sub"]}\n')
        with pytest.raises(RnowError, match="no tool `sub`"):
            run(tmp_path, server, tools=tmp_path / "tools.py")
    assert not server.asked


def test_text_prompts_and_systems_of_rows(tmp_path):
    (tmp_path / "prompts.txt").write_text("one question\n\nanother\n")
    with teacher() as server:
        run(tmp_path, server, source=tmp_path / "prompts.txt", output=tmp_path / "out.jsonl")
        (tmp_path / "more.jsonl").write_text('{"prompt": "third", "system": "Own."}\n"fourth"\n')
        run(
            tmp_path,
            server,
            source=tmp_path / "more.jsonl",
            output=tmp_path / "out.jsonl",
            system="All.",
        )
    rows = rows_of(tmp_path / "out.jsonl")
    assert {asked_of(row) for row in rows} == {"one question", "another", "third", "fourth"}
    systems = {asked_of(row): row["messages"][0]["content"] for row in rows[2:]}
    assert systems == {"third": "Own.", "fourth": "All."}
    assert (tmp_path / "out.rejected.jsonl").exists()
