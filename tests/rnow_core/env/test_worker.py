"""The reward worker with real processes: scores, failures, deadlines, deaths."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rnow_core.env.call import RewardFailure
from rnow_core.env.rewards import ProjectRewards
from rnow_core.env.worker import MAX_DEATHS, RewardWorker
from rnow_core.errors import FindingsError, RnowError, RunFailed
from rnow_core.types import Prompt

HEAD = """
    import asyncio, os, signal, sys, threading, time
    from rnow import reward, RewardArgs, get_response
"""
BASIC = (
    HEAD
    + """
    @reward
    def length(args, messages):
        return len(get_response(messages))

    @reward(precondition=True)
    def gate(args, messages):
        return get_response(messages) != "bad"

    @reward
    async def judge(args, messages):
        await asyncio.sleep(0.05)
        return args.metadata["answer"] + args.variables["bonus"]

    @reward
    def process(args, messages):
        return os.getpid()
"""
)


def reply(text):
    return [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]


def with_worker(folder, use, **options):
    """Run `await use(worker)` with a worker of this project."""

    async def main():
        async with RewardWorker(folder, folder / "logs" / "rewards.log", **options) as worker:
            return await asyncio.wait_for(use(worker), 60)

    return asyncio.run(main())


def failure(folder, name, **options):
    async def use(worker):
        with pytest.raises(RewardFailure) as caught:
            await worker.score([name], reply("x"))
        assert caught.value.reward == name
        return caught.value.message

    return with_worker(folder, use, **options)


def test_scores_sync_and_async(project):
    async def use(worker):
        return await worker.score(["length", "gate", "judge"], reply("four"), {"answer": 2}, {"bonus": 0.5})

    scores = with_worker(project(BASIC), use)
    assert scores == {"length": 4.0, "gate": 1.0, "judge": 2.5}
    assert all(type(score) is float for score in scores.values())


def test_many_in_flight_are_not_mixed_up(project):
    async def use(worker):
        begin = time.monotonic()
        calls = [
            worker.score(["length", "judge"], reply("x" * n), {"answer": n}, {"bonus": 0}) for n in range(300)
        ]
        scores = await asyncio.gather(*calls)
        return scores, time.monotonic() - begin

    scores, seconds = with_worker(project(BASIC), use)
    assert scores == [{"length": n, "judge": n} for n in range(300)]
    assert seconds < 300 * 0.05  # the async ones waited beside each other


def test_long_messages_and_unicode(project):
    async def use(worker):
        return await worker.score(["length"], reply("ä\n\u2028" * 200_000))

    assert with_worker(project(BASIC), use) == {"length": 600_000.0}


def test_what_rewards_print_or_read_does_not_touch_the_protocol(project):
    folder = project(
        HEAD
        + """
    print("at import")

    @reward
    def noisy(args, messages):
        print("to stdout")
        print("to stderr", file=sys.stderr)
        os.system("echo from a child")
        os.write(1, b"to the descriptor")
        return len(sys.stdin.read())
    """
    )

    async def use(worker):
        return await worker.score(["noisy"], reply("x"))

    assert with_worker(folder, use) == {"noisy": 0.0}
    log = (folder / "logs" / "rewards.log").read_text()
    for words in ("at import", "to stdout", "to stderr", "from a child", "to the descriptor"):
        assert words in log


FAILING = (
    HEAD
    + """
    @reward
    def raises(args, messages):
        return args.metadata["missing"]

    @reward
    def exits(args, messages):
        sys.exit(1)

    @reward
    def forgets(args, messages):
        1.0

    @reward
    def text(args, messages):
        return "1.0"

    @reward
    def infinite(args, messages):
        return float("nan")

    @reward
    def unawaited(args, messages):
        return asyncio.sleep(0)

    @reward
    async def late(args, messages):
        raise TimeoutError("the judge is slow")
"""
)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "reward `raises` raised KeyError: 'missing' (rewards.py:7)"),
        ("exits", "reward `exits` raised SystemExit: 1 (rewards.py:11)"),
        ("forgets", "reward `forgets` returned None, expected a finite number (is a `return` missing?)"),
        ("text", "reward `text` returned '1.0', expected a finite number"),
        ("infinite", "reward `infinite` returned nan, expected a finite number"),
        (
            "unawaited",
            "reward `unawaited` returned a coroutine: declare it `async def` and await what it calls",
        ),
        ("late", "reward `late` raised TimeoutError: the judge is slow (rewards.py:31)"),
    ],
)
def test_a_reward_without_a_number_fails_its_rollout(project, name, message):
    assert failure(project(FAILING), name) == message


def test_the_log_has_the_traceback(project):
    folder = project(FAILING)
    failure(folder, "raises")
    assert "Traceback" in (folder / "logs" / "rewards.log").read_text()


def test_unknown_names_list_what_there_is(project):
    async def use(worker):
        with pytest.raises(RnowError, match="no reward `lenght`") as caught:
            await worker.score(["lenght"], reply("x"))
        return caught.value.hint

    assert with_worker(project(BASIC), use) == "rewards.py has: gate, judge, length, process"


HANGING = (
    HEAD
    + """
    @reward(timeout=0.3)
    def hang(args, messages):
        if get_response(messages) == "hang":
            time.sleep(60)
        return 1

    @reward(timeout=0.3)
    async def stuck(args, messages):
        await asyncio.sleep(60)

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
        "reward `hang` took longer than 0.3 s"
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


def test_a_busy_main_process_is_not_taken_for_a_hanging_reward(project):
    async def use(worker):
        calls = asyncio.gather(*(worker.score(["hang"], reply("x")) for _ in range(3)))
        await asyncio.sleep(0)
        time.sleep(0.5)
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


def test_secrets_by_name_and_nothing_else(project, monkeypatch):
    monkeypatch.setenv("SOMEBODYS_TOKEN", "leak")
    monkeypatch.setenv("LC_TEST", "kept")
    folder = project(
        HEAD
        + """
    @reward
    def checks(args, messages):
        assert args.secrets == {"JUDGE_KEY": "s3cret"}
        assert os.environ["JUDGE_KEY"] == "s3cret"
        assert "SOMEBODYS_TOKEN" not in os.environ
        assert os.environ["LC_TEST"] == "kept"
        return 1
    """
    )

    async def use(worker):
        return await worker.score(["checks"], reply("x"))

    assert with_worker(folder, use, secrets={"JUDGE_KEY": "s3cret"}) == {"checks": 1.0}


def test_rewards_run_in_the_main_thread_of_the_users_python(project):
    folder = project(
        HEAD
        + """
    def here():
        return threading.current_thread() is threading.main_thread() and sys.executable == os.environ["PYTHON_WANTED"]

    @reward
    def sync(args, messages):
        return here()

    @reward
    async def waiting(args, messages):
        return here()
    """
    )

    async def use(worker):
        return await worker.score(["sync", "waiting"], reply("x"))

    assert with_worker(folder, use, secrets={"PYTHON_WANTED": sys.executable}) == {
        "sync": 1.0,
        "waiting": 1.0,
    }


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


def test_a_broken_rewards_file_is_told_on_start(project):
    with pytest.raises(FindingsError, match=r"rewards\.py:2: .*NameError"):
        with_worker(project("x = 1\nx = y\n"), None)


def test_project_rewards_score_a_prompt(project):
    folder = project(BASIC)
    prompt = Prompt(
        0, (), "train.jsonl", 1, rewards=("gate", "judge"), metadata={"answer": 1}, variables={"bonus": 2}
    )

    async def main():
        rewards = ProjectRewards(folder, timeout=10.0, log=folder / "log")
        try:
            good, bad = [await rewards.score(prompt, reply(text)) for text in ("fine", "bad")]
            return good, rewards.total(good), bad, rewards.total(bad)
        finally:
            await rewards.close()

    assert asyncio.run(main()) == ({"gate": 1.0, "judge": 3.0}, 4.0, {"gate": 0.0, "judge": 3.0}, 0.0)
