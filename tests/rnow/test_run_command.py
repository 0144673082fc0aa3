import importlib.util
import json
import subprocess
from pathlib import Path


def test_plain_lines_one_a_step_on_stdout_notes_on_stderr(run_scripted):
    done = run_scripted("complete", "run")
    assert done.code == 0
    lines = done.out.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == 14
    assert (
        steps[3]
        == "step 4/14  loss 0.25  teacher_kl 0.125  reward 0.25  tokens/s 1,234  seconds 2  left 0:20"
    )
    assert lines[lines.index(steps[6]) + 1] == "eval at step 7  accuracy 0.618  nan nan"
    assert lines[-3:] == ["finished", "  student_after  0.91", "  seconds        12"]
    assert "run run-001: 14 steps" in done.err
    assert "trainer.learning_rate: 0.0001 -> 0.001" in done.err
    assert "warning: the disk is nearly full\n  hint: free some space" in done.err
    assert "check teacher = student: ok" in done.err
    assert "\x1b" not in done.out + done.err


def test_json_is_one_event_a_line_and_nothing_else(run_scripted):
    done = run_scripted("complete", "run", "--json")
    events = [json.loads(line) for line in done.out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    assert kinds.count("step") == 14
    assert all(event["schema"] == 1 for event in events)
    assert next(e for e in events if e["event"] == "eval")["metrics"]["nan"] is None
    assert done.err == ""


def test_options_reach_the_engine(run_scripted, tmp_path):
    (tmp_path / "proj").mkdir()
    done = run_scripted("echo", "run", "a.b=1", "-d", "proj", "c=x=y", "--name", "n", "--json")
    assert json.loads(done.out)["summary"] == {
        "dir": "proj",
        "overrides": ["a.b=1", "c=x=y"],
        "name": "n",
        "resume": False,
    }
    assert json.loads(run_scripted("echo", "run", "--resume", "--json").out)["summary"]["resume"] is True


def test_an_engine_error_is_one_message_with_its_fix(run_scripted):
    done = run_scripted("failing", "run")
    assert done.code == 1
    assert done.err.endswith("error: teacher and student disagree\n  hint: check teacher.path\n")
    as_json = run_scripted("failing", "run", "--json")
    assert as_json.code == 1
    assert json.loads(as_json.out.splitlines()[-1]) == {
        "error": {
            "type": "RunFailed",
            "message": "teacher and student disagree",
            "hint": "check teacher.path",
            "exit_code": 1,
        }
    }


def test_findings_name_their_place(run_scripted, tmp_path):
    (tmp_path / "config.yml").write_text("a:\n  sed: 1\n")
    done = run_scripted("findings", "run")
    assert done.code == 1
    assert done.err.startswith("config.yml:2:3: error[RN101] a.sed: unknown key\n      sed: 1\n      ^\n")
    error = json.loads(run_scripted("findings", "run", "--json").out)["error"]
    assert error["findings"][0]["code"] == "RN101"


def test_a_defect_is_one_line_and_the_traceback_is_in_the_runs_logs(run_scripted, tmp_path):
    done = run_scripted("crashing", "run")
    assert done.code == 1
    assert "error: Unexpected error: ZeroDivisionError: division by zero" in done.err
    assert "Traceback" not in done.err
    [log] = (tmp_path / "runs" / "run-001" / "logs").iterdir()
    assert log.name in done.err
    assert "in crashing" in log.read_text()


def test_debug_shows_the_traceback(run_scripted):
    done = run_scripted("crashing", "run", RNOW_DEBUG="1")
    assert done.code == 1
    assert "Traceback (most recent call last)" in done.err


def test_a_reader_that_goes_away_does_not_end_the_run(scripted, tmp_path):
    process = subprocess.Popen(
        scripted("complete", "run"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert "checkpoint at step 14" in said
    assert "Broken" not in said
    assert "Traceback" not in said
    process.stderr.close()


def test_without_the_training_packages_the_fix_is_named(rnow, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "rnow_core.models.extras.find_spec", lambda name: None if name == "torch" else find(name)
    )
    done = rnow("run")
    assert done.code == 3
    assert "torch" in done.err
    assert "rnow-distill[train]" in done.err
    assert not Path("runs").exists()
