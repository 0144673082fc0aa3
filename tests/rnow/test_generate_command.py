"""`rnow generate` as it is typed: exit codes, what it says, and where."""

import json

import pytest
from teacher_server import Fault, teacher


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    return tmp_path


def options(server):
    return ["generate", "prompts.txt", "-t", "none", "--base-url", server.url]


def test_it_reads_the_key_from_env_file_and_says_what_came_out(rnow, project, monkeypatch):
    monkeypatch.setenv("OPENROUTER_API_KEY", "")
    monkeypatch.delenv("OPENROUTER_API_KEY")
    (project / ".env").write_text("OPENROUTER_API_KEY=sk-or-v1-test\n")
    with teacher() as server:
        done = rnow(*options(server), "-m", "openai/gpt-4o", "--max-tokens", "7", "--temperature", "0")
    assert done.code == 0
    assert "3 rows in train.jsonl" in done.out
    assert "done 3 of 3" in done.err
    assert len((project / "train.jsonl").read_text().splitlines()) == 3
    assert server.headers[0]["authorization"] == "Bearer sk-or-v1-test"
    sent = server.bodies[0]
    assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("openai/gpt-4o", 7, 0.0)


def test_which_rows_are_kept_is_said_before_and_after(rnow, project):
    (project / "prompts.txt").write_text("one\ntwo\none\nthree\n")
    (project / "held_out.txt").write_text("Three\n")
    (project / "rewards.py").write_text(
        "from rnow import reward\n\n@reward\ndef good(args, messages) -> float:\n    return 2.0\n"
    )
    kept = ("--best-of", "2", "--min-reward", "1.5", "--dedup", "--student", "none")
    with teacher() as server:
        done = rnow(
            *options(server), "--key-env", "none", *kept, "--eval-file", "held_out.txt", "--drop-overlap"
        )
    assert done.code == 0
    assert "1 of 4 prompts repeat another one: they are rejected (line 3)" in done.err
    assert (
        "1 of 4 prompts are also in held_out.txt (1 exactly, 0 nearly): they are rejected (line 4)"
        in done.err
    )
    assert "2 rows in train.jsonl" in done.out
    assert "4 rows in rejected.jsonl: duplicate 1  eval-overlap 1  not-best 2" in done.out
    assert "student   not checked" in done.out


def test_json_events_and_the_forecast_of_a_dry_run(rnow, project):
    with teacher(delay=0.1) as server:
        done = rnow(*options(server), "--key-env", "none", "--dry-run", "1", "--json")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert events[-1]["event"] == "run_finished"
    assert events[-1]["summary"]["forecast"]["prompts"] == 2
    assert events[-2]["done"] == 1


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["generate", "none.txt", "-t", "none", "--key-env", "none"], 1, "cannot be read"),
        (["generate", "prompts.txt", "--key-env", "none"], 2, "--tools tools.py: does not exist"),
        (["generate", "prompts.txt", "-t", "none", "--key-env", "RNOW_UNSET"], 3, "RNOW_UNSET"),
        (["generate", "prompts.txt", "-t", "none", "--best-of", "2"], 2, "rewards.py does not exist"),
        (["generate", "prompts.txt", "-t", "none", "--student", "./no"], 1, "there is no folder './no'"),
        (["generate", "prompts.txt", "-t", "none", "--drop-overlap"], 2, "there is no evaluation file"),
        (["generate", "prompts.txt", "-t", "none", "--price", "3"], 2, "--price takes two numbers"),
        (
            ["generate", "prompts.txt", "-t", "none", "-o", "prompts.txt", "--key-env", "none"],
            2,
            "the output",
        ),
    ],
)
def test_a_mistake_has_one_message_and_its_exit_code(rnow, project, args, code, said):
    done = rnow(*args)
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err


def test_no_credit_says_what_to_do(rnow, project):
    with teacher(lambda *_: Fault(status=402)) as server:
        done = rnow(*options(server), "--key-env", "none")
    assert done.code == 1
    assert "add credit" in done.err
