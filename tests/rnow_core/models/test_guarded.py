import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rnow_core.errors import EnvironmentMissing
from rnow_core.models import guarded
from rnow_core.models.guarded import GuardedProcess, private_folder
from rnow_core.models.guardian import descendants, parents

# Starts two children that ignore SIGTERM, one of them in a session of its own, and writes all three ids.
FAMILY = """
import os, signal, subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
children = [
    subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, start_new_session=own)
    for own in (False, True)
]
for child in children:
    child.stdout.readline()
open(sys.argv[1], "w").write(" ".join(str(pid) for pid in [os.getpid(), *(child.pid for child in children)]))
print("the family is complete", flush=True)
EXIT = float(sys.argv[2])
time.sleep(EXIT)
sys.exit(3)
"""

PARENT = """
import os, sys, time
from pathlib import Path
from rnow_core.models.guarded import GuardedProcess
folder, log, command = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
process = GuardedProcess(command, environment=os.environ, log_file=log, folder=folder, grace=0.2)
if os.fork() == 0:
    time.sleep(600)  # inherits the pipe to the guardian, which therefore never sees its end
time.sleep(600)
"""


def running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds: float = 20.0):
    """Wait for something that happens soon; returns its last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def read_ids(ids: Path) -> list[int]:
    assert until(lambda: ids.exists() and len(ids.read_text().split()) == 3)
    return [int(word) for word in ids.read_text().split()]


@pytest.fixture
def family(tmp_path):
    """`family(lives)`: command and file of ids of a process with two stubborn children."""
    ids = tmp_path / "ids"
    yield lambda lives=600.0: ([sys.executable, "-c", FAMILY, str(ids), str(lives)], ids)
    for pid in ids.read_text().split() if ids.exists() else []:
        if running(int(pid)):
            os.kill(int(pid), signal.SIGKILL)


def guard(command, tmp_path, **changes) -> GuardedProcess:
    settings = {"environment": os.environ, "log_file": tmp_path / "log", "folder": tmp_path / "sockets"}
    return GuardedProcess(command, **(settings | {"grace": 0.2} | changes))


def test_stop_ends_children_that_ignore_sigterm_or_left_the_group(family, tmp_path):
    command, ids = family()
    process = guard(command, tmp_path)
    pids = read_ids(ids)
    assert process.alive
    assert process.pid == pids[0]
    assert all(map(running, pids))
    asyncio.run(process.stop())
    assert not process.alive
    assert not any(map(running, pids))
    assert not (tmp_path / "sockets").exists()
    assert "the family is complete" in (tmp_path / "log").read_text()


def test_nothing_survives_a_parent_killed_with_sigkill(family, tmp_path):
    command, ids = family()
    folder = tmp_path / "sockets"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder), str(tmp_path / "log"), *command])
    pids = read_ids(ids)
    below = descendants(parent.pid)
    forked = next(pid for pid in below if b"fork" in Path(f"/proc/{pid}/cmdline").read_bytes())
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        parent.kill()
        parent.wait()
        assert running(forked)
        assert until(lambda: not any(map(running, below - {forked})))
        assert not any(map(running, pids))
        assert not folder.exists()
    finally:
        os.kill(forked, signal.SIGKILL)


def test_a_command_that_ends_takes_its_children_along(family, tmp_path):
    command, ids = family(lives=0.0)
    process = guard(command, tmp_path)
    pids = read_ids(ids)
    assert until(lambda: not process.alive)
    assert process.exit_code == 3
    assert not any(map(running, pids))
    assert (tmp_path / "sockets").exists()
    asyncio.run(process.stop())
    assert not (tmp_path / "sockets").exists()


def test_a_killed_command_is_reported_with_its_signal(tmp_path):
    process = guard(["sleep", "600"], tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert until(lambda: not process.alive)
    assert process.exit_code == 128 + signal.SIGKILL
    asyncio.run(process.stop())


def test_a_killed_guardian_leaves_nothing(tmp_path):
    process = guard(["sh", "-c", "sleep 600 & sleep 600"], tmp_path)
    below = until(lambda: len(found := descendants(process.pid)) == 2 and found)
    os.kill(parents()[process.pid], signal.SIGKILL)
    assert until(lambda: not any(map(running, below | {process.pid})))
    assert not process.alive
    asyncio.run(process.stop())
    assert not (tmp_path / "sockets").exists()


def test_ctrl_c_does_not_reach_the_command(tmp_path):
    process = guard(["sleep", "600"], tmp_path)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    asyncio.run(process.stop())


def test_stop_twice_is_harmless(tmp_path):
    process = guard(["sleep", "600"], tmp_path)
    asyncio.run(process.stop())
    asyncio.run(process.stop())
    assert not process.alive


def test_a_folder_that_others_can_open_is_refused(tmp_path):
    (tmp_path / "sockets").mkdir(mode=0o755)
    with pytest.raises(EnvironmentMissing, match="nobody else can open"):
        guard(["sleep", "600"], tmp_path)


def test_socket_paths_stay_short_under_a_long_tmpdir(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(guarded.tempfile, "gettempdir", lambda: str(long))
    assert len(str(private_folder())) + 37 <= guarded.SOCKET_PATH_BYTES
    assert private_folder().parent == Path("/tmp")
    assert private_folder() != private_folder()
