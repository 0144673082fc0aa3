"""Rewards that hang or die, and processes that end: what is lost, and what is not."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reward_projects import HEAD, failure, reply, with_worker

import rnow_core.env.worker as worker_module
from rnow_core.env.call import RewardFailure
from rnow_core.env.worker import MAX_DEATHS, RewardWorker
from rnow_core.errors import RunFailed

HANGING = (
    HEAD
    + """
    @reward(timeout=0.8)
    def hang(args, messages):
        if get_response(messages) == "hang":
            re.match("(a+)+$", "a" * 60 + "b")  # holds the interpreter: no thread or signal handler of it can run
        return 1

    @reward(timeout=0.3)
    async def stuck(args, messages):
        await asyncio.sleep(60)

    @reward(timeout=0.3)
    async def blocking(args, messages):
        time.sleep(60)

    @reward
    def takes_a_second(args, messages):
        time.sleep(1)
        return 4

    @reward(timeout=0.5)
    async def patient(args, messages):
        await asyncio.sleep(0.1)
        return 5

    @reward
    async def slow(args, messages):
        await asyncio.sleep(0.6)
        return 2

    @reward
    def fast(args, messages):
        return 3
"""
)


def test_a_hanging_reward_loses_its_own_rollout_only(project):
    async def use(worker):
        texts = ["a", "hang", "b", "hang", "c"]
        return await asyncio.gather(
            *(worker.score(["slow", "hang", "fast"], reply(text)) for text in texts), return_exceptions=True
        )

    outcomes = with_worker(project(HANGING), use)
    good = {"slow": 2.0, "hang": 1.0, "fast": 3.0}
    assert [outcome for outcome in outcomes if not isinstance(outcome, RewardFailure)] == [good] * 3
    assert {o.message for o in outcomes if isinstance(o, RewardFailure)} == {
        "reward `hang` took longer than 0.8 s"
    }


def test_the_default_timeout_is_for_rewards_without_one(project):
    assert failure(project(HANGING), "slow", timeout=0.2) == "reward `slow` took longer than 0.2 s"


def test_an_async_timeout_does_not_end_the_process(project):
    async def use(worker):
        before = worker._process.pid
        with pytest.raises(RewardFailure, match=r"`stuck` took longer than 0\.3 s"):
            await worker.score(["stuck"], reply("x"))
        return before, worker._process.pid

    before, after = with_worker(project(HANGING), use)
    assert before == after


def test_an_async_reward_that_blocks_is_stopped_from_outside(project, monkeypatch):
    monkeypatch.setattr(worker_module, "_ASYNC_GRACE", 0.2)
    assert failure(project(HANGING), "blocking") == "reward `blocking` took longer than 0.3 s"


def test_an_async_reward_does_not_pay_for_the_sync_ones_that_held_it_up(project, monkeypatch):
    monkeypatch.setattr(worker_module, "_ASYNC_GRACE", 0.1)

    async def use(worker):
        return await worker.score(["patient", "takes_a_second"], reply("x"))

    assert with_worker(project(HANGING), use) == {"patient": 5.0, "takes_a_second": 4.0}


def test_a_busy_main_process_is_not_taken_for_a_hanging_reward(project):
    async def use(worker):
        calls = asyncio.gather(*(worker.score(["hang"], reply("x")) for _ in range(3)))
        await asyncio.sleep(0)
        time.sleep(1.2)
        return await calls

    assert with_worker(project(HANGING), use) == [{"hang": 1.0}] * 3


DYING = (
    HEAD
    + """
    @reward
    def dies(args, messages):
        os.kill(os.getpid(), signal.SIGKILL)

    @reward
    async def dies_waiting(args, messages):
        await asyncio.sleep(0)
        os._exit(7)

    @reward
    def lives(args, messages):
        return 1
"""
)


def test_a_dying_reward_loses_its_own_rollout_only(project):
    async def use(worker):
        names = ["lives", "dies", "lives", "dies", "lives"] * 3
        return await asyncio.gather(*(worker.score([n], reply("x")) for n in names), return_exceptions=True)

    outcomes = with_worker(project(DYING), use)
    assert sum(outcome == {"lives": 1.0} for outcome in outcomes if isinstance(outcome, dict)) == 9
    messages = {outcome.message for outcome in outcomes if isinstance(outcome, RewardFailure)}
    assert messages == {"reward `dies` ended its process (signal SIGKILL)"}


def test_a_worker_that_cannot_be_kept_alive_stops_the_run(project):
    async def use(worker):
        with pytest.raises(RunFailed, match=f"ended {MAX_DEATHS + 1} times.*exit code 7") as caught:
            await worker.score(["dies_waiting"], reply("x"))
        with pytest.raises(RunFailed):
            await worker.score(["lives"], reply("x"))
        return caught.value.hint

    assert "rewards.log" in with_worker(project(DYING), use)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def gone(pid):
    for _ in range(200):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_close_ends_the_process_and_calls_in_flight(project):
    async def main():
        worker = RewardWorker(project(HANGING), Path(os.devnull))
        await worker.start()
        call = asyncio.create_task(worker.score(["slow"], reply("x")))
        await asyncio.sleep(0.1)
        pid = worker._process.pid
        await worker.close()
        with pytest.raises(RunFailed, match="closed"):
            await call
        await worker.close()
        return pid

    assert gone(asyncio.run(main()))


def test_closing_a_worker_that_never_started(tmp_path):
    asyncio.run(RewardWorker(tmp_path, tmp_path / "log").close())


PARENT = """
import asyncio, sys
from pathlib import Path
from rnow_core.env.worker import RewardWorker

async def main():
    worker = RewardWorker(Path(sys.argv[1]), Path(sys.argv[1]) / "log")
    await worker.start()
    print(worker._process.pid, flush=True)
    await worker.score(["busy"], [])

asyncio.run(main())
"""


def test_the_worker_dies_with_a_killed_parent(project):
    folder = project(
        HEAD
        + """
    @reward
    def busy(args, messages):
        open("busy", "w").close()
        time.sleep(60 if sys.platform == "linux" else 1)
    """
    )
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        for _ in range(200):
            if (folder / "busy").exists():
                break
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    assert gone(pid)
