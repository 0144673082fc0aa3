"""The reward worker with real processes: scores, and rewards that give none."""

import asyncio
import sys

import pytest
from reward_projects import HEAD, failure, reply, with_worker

from rnow_core.env.rewards import ProjectRewards
from rnow_core.errors import FindingsError, RnowError
from rnow_core.types import Prompt

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


def test_scores_sync_and_async(project):
    async def use(worker):
        return await worker.score(["length", "gate", "judge"], reply("four"), {"answer": 2}, {"bonus": 0.5})

    scores = with_worker(project(BASIC), use)
    assert scores == {"length": 4.0, "gate": 1.0, "judge": 2.5}
    assert all(type(score) is float for score in scores.values())


def test_many_in_flight_are_not_mixed_up(project):
    async def use(worker):
        calls = [
            worker.score(["length", "judge"], reply("x" * n), {"answer": n}, {"bonus": 0}) for n in range(300)
        ]
        return await asyncio.gather(*calls)

    scores = with_worker(project(BASIC), use)
    assert scores == [{"length": n, "judge": n} for n in range(300)]


def test_async_rewards_wait_beside_each_other(project):
    folder = project(
        HEAD
        + """
    here, everyone = 0, asyncio.Event()

    @reward
    async def meets(args, messages):
        global here
        here += 1
        if here == 50:
            everyone.set()
        await everyone.wait()
        return here
    """
    )

    async def use(worker):
        return await asyncio.gather(*(worker.score(["meets"], reply("x")) for _ in range(50)))

    assert with_worker(folder, use) == [{"meets": 50.0}] * 50


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
            good, bad = [await rewards.score(prompt, reply(text), None) for text in ("fine", "bad")]
            return good, rewards.total(good), bad, rewards.total(bad)
        finally:
            await rewards.close()

    assert asyncio.run(main()) == ({"gate": 1.0, "judge": 3.0}, 4.0, {"gate": 0.0, "judge": 3.0}, 0.0)
