import os
import pty
import select
import signal
import subprocess
import time

import pytest


def read_until(stream, text, limit=60.0):
    """What a pipe or a terminal says until `text` appears."""
    said, end = "", time.monotonic() + limit
    while text not in said:
        ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
        chunk = os.read(stream, 4096) if ready else b""
        assert chunk, f"expected {text!r}, got:\n{said}"
        said += chunk.decode(errors="replace")
    return said


@pytest.fixture
def started(scripted, tmp_path):
    """Start a scripted run and wait until it is in its first step."""
    processes = []

    def start(scenario, *args):
        process = subprocess.Popen(
            scripted(scenario, "run", *args), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        processes.append(process)
        read_until(process.stdout.fileno(), "teacher_kl")
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_the_run_finish_its_step(started, number):
    process = started("stoppable")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    text = said.decode()
    assert "Stopping after this step" in text
    assert text.index("Stopping") < text.index("checkpoint at step 1") < text.index("Stopped after step 1.")
    assert "rnow run --resume" in text
    assert "Traceback" not in text


def test_the_second_signal_ends_the_process(started):
    process = started("stubborn")
    process.send_signal(signal.SIGINT)
    read_until(process.stderr.fileno(), "Stopping after this step")
    time.sleep(0.4)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == b"Stopped.\n"


def test_a_signal_that_arrives_doubled_counts_once(started):
    process = started("stoppable")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Stopped after step 1." in said


def test_an_interrupted_json_run_ends_with_the_error(started):
    process = started("stoppable", "--json")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b'"exit_code":130' in out.splitlines()[-1]


def test_on_a_terminal_the_cursor_comes_back(scripted, tmp_path):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        scripted("stubborn", "run"),
        cwd=tmp_path,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(follower)
    try:
        assert "\x1b[?25l" in read_until(leader, "left")
        process.send_signal(signal.SIGINT)
        read_until(leader, "Stopping after this step")
        time.sleep(0.4)
        process.send_signal(signal.SIGINT)
        assert "\x1b[?25h" in read_until(leader, "Stopped.")
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_the_handlers_are_taken_back():
    from rnow.signals import stop_on_signals
    from rnow_core.stop import StopSignal

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals(StopSignal(), lambda text: None):
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
