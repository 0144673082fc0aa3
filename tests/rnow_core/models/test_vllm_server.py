import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vllm_fixtures import quiet, tiny_spec

from rnow_core.errors import RunFailed
from rnow_core.models.guardian import descendants, parents
from rnow_core.models.vllm_server import ManagedServer, get

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]

PARENT = """
import asyncio, sys
from pathlib import Path
from rnow_core.models.vllm_command import ServerSpec
from rnow_core.models.vllm_server import ManagedServer
spec = ServerSpec("teacher", sys.argv[1], Path(sys.argv[2]), dtype="float32", on_gpu=False, max_model_len=128)
server = ManagedServer(spec)
print(server.socket.parent, flush=True)
asyncio.run(server.start(lambda elapsed, text: None))
"""


def family(server_pid: int) -> set[int]:
    """The server's process, its guardian and everything below them."""
    return {server_pid, parents()[server_pid]} | descendants(server_pid)


def gone(pids: set[int], seconds: float = 30.0) -> bool:
    """Whether all of them end soon."""
    deadline = time.monotonic() + seconds
    while (left := pids & parents().keys()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left


def engine_core(below: set[int]) -> int | None:
    """The process that holds the model, once it is there."""
    for pid in below:
        name = Path(f"/proc/{pid}/cmdline")
        if name.exists() and b"EngineCore" in name.read_bytes():
            return pid
    return None


def test_servers_serve_the_models_they_were_given(vllm_student, vllm_teacher):
    for served in (vllm_student, vllm_teacher):
        status, body = get(served.socket, "/v1/models")
        assert status == 200
        entry = next(entry for entry in json.loads(body)["data"] if entry["id"] == served.name)
        assert entry["root"] == str(served.model_folder)
        assert served.socket.parent.stat().st_mode & 0o777 == 0o700
    assert vllm_student.socket != vllm_teacher.socket


def test_a_healthy_server_is_left_alone(vllm_student):
    pid = vllm_student.server.pid
    assert asyncio.run(vllm_student.server.ensure()) is False
    assert (vllm_student.server.pid, vllm_student.server.starts) == (pid, 1)


def test_a_server_of_another_model_is_refused(vllm_teacher, tmp_path):
    other = ManagedServer(tiny_spec("teacher", tmp_path / "another", tmp_path))
    other.socket = vllm_teacher.socket
    with pytest.raises(RunFailed) as error:
        asyncio.run(other.check_model())
    assert str(vllm_teacher.model_folder) in error.value.message
    assert str(tmp_path / "another") in error.value.message


def test_a_model_that_cannot_be_loaded_ends_the_start_with_the_log(tmp_path):
    server = ManagedServer(tiny_spec("student", tmp_path / "nothing", tmp_path))
    with pytest.raises(RunFailed, match="ended with exit code 1 while starting") as error:
        asyncio.run(server.start(quiet))
    assert str(tmp_path / "vllm-student.log") in error.value.message
    assert "Error" in error.value.message
    assert "model's path" in error.value.hint
    assert not server.alive
    assert not server.socket.parent.exists()


def test_a_server_that_is_never_ready_is_ended_at_the_deadline(vllm_teacher, tmp_path):
    server = ManagedServer(tiny_spec("teacher", vllm_teacher.model_folder, tmp_path), start_seconds=2.5)
    seen, pids = [], set()

    def progress(elapsed, text):
        seen.append((elapsed, text))
        pids.update(family(server.pid))

    with pytest.raises(RunFailed, match="was not ready after 2 s"):
        asyncio.run(server.start(progress))
    assert len(seen) >= 2
    assert [elapsed for elapsed, _ in seen] == sorted(elapsed for elapsed, _ in seen)
    assert all("teacher" in text and "of at most 2 s" in text for _, text in seen)
    assert pids
    assert gone(pids)


def test_a_killed_engine_and_a_killed_server_are_restarted_up_to_the_limit(vllm_student, tmp_path):
    server = ManagedServer(tiny_spec("student", vllm_student.model_folder, tmp_path), max_restarts=1)

    async def scenario():
        await server.start(quiet)
        first = family(server.pid)
        os.kill(engine_core(first), signal.SIGKILL)
        while get(server.socket, "/health")[0] == 200:  # the server needs a moment to notice
            await asyncio.sleep(0.05)
        # All who failed at the same moment ask; one restarts it.
        assert sorted(await asyncio.gather(server.ensure(), server.ensure())) == [False, True]
        assert server.starts == 2
        assert get(server.socket, "/health")[0] == 200
        assert gone(first)
        second = family(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(RunFailed, match="signal 9, and was restarted 1 time") as error:
            await server.ensure()
        assert "vllm-student.log" in error.value.message
        await server.stop()
        assert gone(second)
        with pytest.raises(RunFailed, match="not running"):
            await server.ensure()

    asyncio.run(scenario())


def test_no_process_outlives_a_run_killed_with_sigkill(vllm_teacher, tmp_path):
    words = [str(vllm_teacher.model_folder), str(tmp_path / "logs" / "teacher.log")]
    run = subprocess.Popen([sys.executable, "-c", PARENT, *words], stdout=subprocess.PIPE, text=True)
    folder = Path(run.stdout.readline().strip())
    deadline = time.monotonic() + 120
    while not engine_core(below := descendants(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    below |= descendants(run.pid)
    assert engine_core(below)
    run.kill()
    run.wait()
    run.stdout.close()
    assert gone(below)
    assert not folder.exists()
