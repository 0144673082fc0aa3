import json
import os
import signal

import pytest

from rnow_core.errors import RunFailed, UsageError, WouldOverwrite
from rnow_core.track.run_folder import RunFolder, read_json

HOLD = """
    import sys
    from pathlib import Path
    from rnow_core.track.run_folder import RunFolder
    run = RunFolder(Path(sys.argv[1]))
    print("locked", flush=True)
    sys.stdin.read() if len(sys.argv) < 3 else __import__("time").sleep(60)
"""


def finish(run, state="finished"):
    run.write_config({"seed": 0})
    run.write_status(state, step=3, total_steps=3)
    run.close()


def test_default_names_count_up_and_never_reuse_a_folder(tmp_path):
    names = []
    for _ in range(3):
        run = RunFolder.create(tmp_path)
        names.append(run.name)
        run.close()
    assert names == ["run-001", "run-002", "run-003"]


def test_every_path_of_a_run_is_inside_it(tmp_path):
    run = RunFolder.create(tmp_path, "mine")
    files = [run.config_file, run.status_file, run.metrics_file, run.summary_file]
    folders = [run.rollouts, run.checkpoints, run.adapters, run.logs]
    assert all(path.parent == tmp_path / "runs" / "mine" for path in files + folders)
    assert all(folder.is_dir() for folder in folders)


def test_an_existing_run_is_not_touched(tmp_path, names):
    finish(RunFolder.create(tmp_path, "mine"))
    before = names(tmp_path / "runs" / "mine")
    with pytest.raises(WouldOverwrite, match="mine") as caught:
        RunFolder.create(tmp_path, "mine")
    assert "--resume" in caught.value.hint
    assert "--name" in caught.value.hint
    assert names(tmp_path / "runs" / "mine") == before


def test_an_empty_folder_of_that_name_is_used(tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert RunFolder.create(tmp_path, "mine").path == tmp_path / "runs" / "mine"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/a", ".hidden"])
def test_a_name_that_is_not_a_plain_folder_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError):
        RunFolder.create(tmp_path, name)


def test_resume_takes_the_latest_run_that_has_not_finished(tmp_path):
    for name, state in [("a", "failed"), ("b", "interrupted"), ("c", "finished")]:
        finish(RunFolder.create(tmp_path, name), state)
    os.utime(tmp_path / "runs" / "a" / "config.json", (1, 1))
    assert RunFolder.open_for_resume(tmp_path).name == "b"
    assert RunFolder.open_for_resume(tmp_path, "a").name == "a"


def test_resume_without_anything_to_resume_says_why(tmp_path):
    with pytest.raises(UsageError, match="no run yet"):
        RunFolder.open_for_resume(tmp_path)
    finish(RunFolder.create(tmp_path, "done"))
    with pytest.raises(UsageError, match="every run has finished"):
        RunFolder.open_for_resume(tmp_path)
    with pytest.raises(UsageError, match="3 of 3 steps"):
        RunFolder.open_for_resume(tmp_path, "done")
    with pytest.raises(UsageError, match="no such run") as caught:
        RunFolder.open_for_resume(tmp_path, "other")
    assert "done" in caught.value.hint


def test_opening_removes_what_a_killed_process_left(tmp_path, names):
    run = RunFolder.create(tmp_path, "mine")
    finish(run, "running")
    left = [run.path / ".tmp-status.json", run.rollouts / ".tmp-step_000001.jsonl"]
    for path in left:
        path.write_text("{")
    (run.checkpoints / ".tmp-step_000001").mkdir()
    again = RunFolder.open_for_resume(tmp_path)
    assert not any(path.exists() for path in left)
    assert names(again.checkpoints) == []


def test_a_second_process_is_told_the_pid_and_changes_nothing(tmp_path, python):
    holder = python(HOLD, tmp_path / "runs" / "mine", "sleep")
    assert holder.stdout.readline() == "locked\n"
    (tmp_path / "runs" / "mine" / ".tmp-status.json").write_text("in flight")
    with pytest.raises(WouldOverwrite, match=f"pid {holder.pid}"):
        RunFolder(tmp_path / "runs" / "mine")
    assert (tmp_path / "runs" / "mine" / ".tmp-status.json").exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    RunFolder(tmp_path / "runs" / "mine").close()


def test_a_forked_child_does_not_keep_the_lock(tmp_path, python):
    """A worker may outlive its killed parent; the run must still be resumable."""
    code = """
    import os, sys, time
    from pathlib import Path
    from rnow_core.track.run_folder import RunFolder
    run = RunFolder(Path(sys.argv[1]))
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
    """
    parent = python(code, tmp_path / "r")
    child = int(parent.stdout.readline())
    try:
        with pytest.raises(WouldOverwrite):
            RunFolder(tmp_path / "r")
        parent.kill()
        parent.wait()
        RunFolder(tmp_path / "r").close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_closing_twice_is_harmless_and_frees_the_run(tmp_path):
    run = RunFolder.create(tmp_path, "mine")
    run.close()
    run.close()
    RunFolder(run.path).close()


def test_status_keeps_its_first_start_and_last_metrics(tmp_path):
    run = RunFolder.create(tmp_path)
    run.write_status("running", 1, 5, {"teacher_kl": float("nan"), "loss/policy": 0.5})
    first = read_json(run.status_file)
    run.write_status("failed", 2, 5, error="disk full")
    last = read_json(run.status_file)
    assert first["metrics"] == {"teacher_kl": None, "loss/policy": 0.5}
    assert "error" not in first
    assert last["metrics"] == first["metrics"]
    assert last["started"] == first["started"]
    assert (last["state"], last["step"], last["total_steps"], last["pid"]) == ("failed", 2, 5, os.getpid())
    assert last["error"] == "disk full"


def test_config_comes_back_and_a_broken_one_is_a_clear_error(tmp_path):
    run = RunFolder.create(tmp_path)
    run.write_config({"seed": 7, "threads": 2})
    assert run.read_config() == {"schema": 1, "seed": 7, "threads": 2}
    run.config_file.write_text("{")
    with pytest.raises(RunFailed, match=r"config\.json"):
        run.read_config()


def test_status_is_json_for_every_reader_at_any_moment(tmp_path, python):
    """A reader beside the writer never sees half a file."""
    code = """
    import sys
    from pathlib import Path
    from rnow_core.track.run_folder import RunFolder
    run = RunFolder(Path(sys.argv[1]))
    for step in range(100):
        run.write_status("running", step, 100, {"pad": "x" * 5000})
    """
    writer = python(code, tmp_path / "r")
    while writer.poll() is None:
        if (tmp_path / "r" / "status.json").exists():
            json.loads((tmp_path / "r" / "status.json").read_text())
    assert writer.returncode == 0
    assert read_json(tmp_path / "r" / "status.json")["step"] == 99
