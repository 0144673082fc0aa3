"""One runner in a real process: what calls give, and what is left when things go wrong."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tool_projects import HEAD, called, linux, running, with_runner, write

from rnow_core.env.call import RewardFailure
from rnow_core.env.runner_log import MAX_LOG
from rnow_core.env.runner_process import RunnerProcess, RunnerStartError
from rnow_core.env.runner_reply import ending, read_loaded
from rnow_core.env.tool_pool import local_runner, project_files
from rnow_core.env.tool_types import ToolContext
from rnow_core.errors import FindingsError

TOOLS = (
    HEAD
    + """
    import dataclasses, enum, pathlib, subprocess, threading

    class Color(enum.Enum):
        RED = "red"

    @dataclasses.dataclass
    class Point:
        x: int
        color: Color = Color.RED

    @tool
    def same(value: object) -> object:
        "Gives it back."
        return value

    @tool
    def kinds(point: Point, n: int = 1, flags: "set[str] | None" = None) -> list:
        "Tells what arrived."
        return [repr(point), point, n, flags, pathlib.Path("a"), (1, None)]

    @tool
    async def known(key: str, args: ToolArgs) -> str:
        "Looks a key up."
        await asyncio.sleep(0.01)
        return args.metadata[key] + args.variables[key] + args.secrets[key] + os.environ.get("HIDDEN", "-")

    @tool
    def inner_loop() -> int:
        "Runs a loop of its own."
        async def seven():
            return 7
        return asyncio.run(seven())

    @tool
    def text(size: int, letter: str = "x") -> str:
        "So many letters."
        return letter * size

    @tool
    def unsaid() -> object:
        "Returns what JSON cannot say."
        return {"a": threading.Lock()}

    @tool
    def circle() -> list:
        "Contains itself."
        items = []
        items.append(items)
        return items

    @tool
    def wrong(how: str) -> str:
        "Goes wrong."
        return getattr(Wrong, how)()

    class Wrong:
        def value(): raise ValueError("no such page")
        def leave(): sys.exit(3)
        def rude(): raise type("Rude", (BaseException,), {"__str__": lambda self: 1 / 0})
        def end(): os._exit(7)
        def crash(): os.kill(os.getpid(), signal.SIGSEGV)
        def hang(): time.sleep(1000)
        def deaf():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True: time.sleep(0.05)
        def memory(): return str(len(bytearray(2**40)))
        def noise():
            for _ in range(64): os.write(1, b"n" * 2**20)
            return "quiet again"
        def stdin(): return repr(sys.stdin.read())
        def folder(): os.chdir("/"); return "moved"
        def where(): return os.getcwd()
        def fork():
            os.fork()
            return "forked"
        def daemon():
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(1000)
                os._exit(0)
            return "left"
        def pipe():
            for number in range(3, 20):
                try: os.write(number, b"{}\\n")
                except OSError: pass
            return "written"
"""
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tools") / "p", TOOLS)


def test_results_and_arguments(project):
    async def use(runner):
        context = ToolContext({"k": "m"}, {"k": "v"}, {"k": "s"})

        async def text(name, **arguments):
            result = await runner.call(name, arguments, context, timeout=30)
            assert (result.ok, result.kind, result.cut) == (True, "ok", False)
            return result.text

        assert await text("same", value="as it is\ud83d é\n") == "as it is? é\n"
        assert await text("same", value=None) == "null"
        assert json.loads(await text("same", value={"é": [1.5, "b"]})) == {"é": [1.5, "b"]}
        assert "é" in await text("same", value=["é"])
        got = json.loads(await text("kinds", point={"x": 2.0}, flags=["b", "a"]))
        assert got[0] == "Point(x=2, color=<Color.RED: 'red'>)"
        assert got[1:] == [{"x": 2, "color": "red"}, 1, ["a", "b"], "a", [1, None]]
        assert await text("known", key="k") == "mvs-"
        assert await text("inner_loop") == "7"

    with_runner(project, use)


def test_other_variables_stay_outside(project, monkeypatch):
    monkeypatch.setenv("HIDDEN", "token")
    context = ToolContext({"k": ""}, {"k": ""}, {"k": ""})
    assert called(project, "known", {"key": "k"}, context=context).text == "-"


def test_long_results_are_cut_with_a_mark(project):
    whole = called(project, "text", {"size": 100}, limit=100)
    assert (whole.text, whole.cut) == ("x" * 100, False)
    cut = called(project, "text", {"size": 101}, limit=100)
    assert cut.cut
    assert cut.text == "x" * 100 + "\n[output cut: the first 100 of 101 characters]"
    wide = called(project, "text", {"size": 3 * 10**7, "letter": "é"}, limit=101)
    assert wide.text.startswith("é" * 50 + "\n[output cut")


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "text"),
    [
        ("wrong", {"how": "value"}, "raised", "`wrong` raised ValueError: no such page (tools.py:LINE)"),
        ("wrong", {"how": "leave"}, "raised", "`wrong` raised SystemExit: 3"),
        ("wrong", {"how": "rude"}, "raised", "`wrong` raised Rude (tools.py"),
        ("wrong", {"how": "memory"}, "raised", "`wrong` raised MemoryError"),
        ("unsaid", {}, "result", "`unsaid` returned a dict that is not JSON: a lock has no JSON form"),
        ("circle", {}, "result", "`circle` returned a list that is not JSON: Circular reference"),
        ("text", {"size": "3"}, "arguments", '`text` was not called: `size` is "3"'),
        ("text", {"siez": 3}, "arguments", "no parameter `siez`; did you mean `size`?"),
        ("text", {}, "arguments", "`size` is missing"),
        ("nowhere", {}, "unknown", "no tool `nowhere`"),
        ("wrong", {"how": "end"}, "died", "`wrong` ended its process (exit code 7)"),
        ("wrong", {"how": "crash"}, "died", "`wrong` ended its process (signal SIGSEGV)"),
        ("wrong", {"how": "pipe"}, "died", "`wrong` wrote into the pipe of its process"),
        ("wrong", {"how": "hang"}, "timeout", "`wrong` took longer than 1 s and was stopped"),
        ("wrong", {"how": "deaf"}, "timeout", "`wrong` took longer than 1 s and was stopped"),
    ],
)
def test_calls_that_fail(project, name, arguments, kind, text):
    result = called(project, name, arguments, timeout=1 if kind == "timeout" else 30)
    assert (result.ok, result.kind) == (False, kind)
    lines = (project / "tools.py").read_text().splitlines()
    line = next(number for number, row in enumerate(lines, 1) if "no such page" in row)
    assert text.replace("LINE", str(line)) in result.text


def test_what_user_code_prints_goes_to_a_bounded_log(project, tmp_path):
    log = tmp_path / "logs" / "tools.log"

    async def use(runner):
        return await runner.call("wrong", {"how": "noise"}, ToolContext(), timeout=30)

    assert with_runner(project, use, log=log).text == "quiet again"
    assert MAX_LOG <= log.stat().st_size <= MAX_LOG + 100
    assert log.read_bytes().endswith(b"dropped]\n")


def test_secrets_do_not_reach_the_log(tmp_path):
    source = """
    @tool
    def f() -> str:
        "Prints the key in two parts."
        for part in ("is open-", "sesame."):
            os.write(2, part.encode())
            time.sleep(0.1)
        return ""
    """

    async def main():
        folder = write(tmp_path / "p", HEAD + source)
        runner = local_runner(folder, {"KEY": "open-sesame"}, log=tmp_path / "log")
        await runner.start()
        await runner.load(project_files(folder))
        assert (await runner.call("f", {}, ToolContext(), timeout=30)).ok
        await runner.close()

    asyncio.run(main())
    assert (tmp_path / "log").read_text() == "is ***."


def test_calls_do_not_disturb_the_next(project):
    async def use(runner):
        async def text(how):
            return (await runner.call("wrong", {"how": how}, ToolContext(), timeout=30)).text

        assert await text("stdin") == "''"
        assert await text("folder") == "moved"
        assert await text("where") == str(project)
        assert await text("fork") == "forked"
        answers = await asyncio.gather(
            *(runner.call("same", {"value": n}, ToolContext(), timeout=30) for n in range(50))
        )
        assert [answer.text for answer in answers] == [str(n) for n in range(50)]

    with_runner(project, use)


def test_an_answer_that_came_while_our_own_loop_was_blocked_counts(project):
    async def use(runner):
        task = asyncio.create_task(runner.call("same", {"value": 1}, ToolContext(), timeout=0.5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(1.5)
        return await task

    assert with_runner(project, use).text == "1"


def test_a_cancelled_call_takes_its_process_along(project):
    async def use(runner):
        task = asyncio.create_task(runner.call("wrong", {"how": "hang"}, ToolContext(), timeout=60))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not runner.alive
        late = await runner.call("same", {"value": 1}, ToolContext(), timeout=30)
        assert (late.kind, late.text) == ("died", "`same` could not run: its process has ended")

    with_runner(project, use)


def test_importing_may_not_take_for_ever(tmp_path):
    async def main():
        folder = write(tmp_path / "p", "import time\ntime.sleep(1000)\n")
        runner = local_runner(folder, {})
        await runner.start()
        with pytest.raises(FindingsError) as caught:
            await runner.load(project_files(folder), timeout=0.5)
        assert not runner.alive
        return caught.value.findings

    (only,) = asyncio.run(main())
    assert (only.code, only.message) == ("RN234", "importing it took longer than 0.5 s")


@pytest.mark.parametrize(
    "reply",
    [
        {"ok": True},
        {"ok": False},
        {"ok": False, "errors": [3]},
        {"ok": True, "tools": [{"name": "f"}], "rewards": []},
        {"ok": True, "tools": 5, "rewards": []},
    ],
)
def test_what_no_runner_of_ours_would_say_is_a_finding(reply):
    with pytest.raises(FindingsError, match="answered something else than tools"):
        read_loaded(reply, "tools.py", "", local=False)


@linux
@pytest.mark.parametrize("how", ["daemon", "hang"])
def test_nothing_is_left_running(project, how, monkeypatch):
    monkeypatch.setenv("LC_TEST", mark := f"mark-{os.getpid()}-{how}")
    result = called(project, "wrong", {"how": how}, timeout=1 if how == "hang" else 30)
    assert result.kind == ("ok" if how == "daemon" else "timeout")
    assert running(mark) == []


@linux
def test_nothing_is_left_when_the_host_is_killed(project, monkeypatch):
    monkeypatch.setenv("LC_TEST", mark := f"mark-{os.getpid()}-host")
    code = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tool_projects import with_runner, ToolContext
async def use(runner):
    await runner.call("wrong", {"how": "daemon"}, ToolContext(), timeout=30)
    print("ready", flush=True)
    await runner.call("wrong", {"how": "hang"}, ToolContext(), timeout=30)
with_runner(Path(sys.argv[1]), use)
"""
    command = [sys.executable, "-c", code, str(project), str(Path(__file__).parent)]
    host = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert host.stdout.readline() == b"ready\n"
    until = time.monotonic() + 20
    while len(running(mark)) < 5 and time.monotonic() < until:  # the host, the guard, the runner, two daemons
        time.sleep(0.05)
    assert len(running(mark)) >= 5
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    until = time.monotonic() + 20
    while running(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert running(mark) == []


@pytest.mark.parametrize(
    ("command", "code"),
    [(["not-a-program", "-u", "-c", ""], 127), (["sh", "-c", "echo no python >&2; exit 126", ""], 126)],
)
def test_no_python(command, code):
    async def main():
        runner = RunnerProcess(command)
        try:
            with pytest.raises(RunnerStartError) as caught:
                await runner.start()
            return caught.value
        finally:
            await runner.close()

    error = asyncio.run(main())
    assert error.code == code
    assert ("no python" in error.hint) or "not-a-program" in error.hint


def test_what_runs_elsewhere_is_ended_by_its_hook(project):
    """As in a container: the process here is only the way there."""
    ended = []

    async def main():
        async def kill():
            ended.append(True)

        command = local_runner(project, {})._command
        runner = RunnerProcess(command, cwd=project, kill=kill)
        await runner.start()
        loaded = await runner.load(project_files(project))
        assert "same" in [info.name for info in loaded.tools]
        assert (await runner.call("wrong", {"how": "hang"}, ToolContext(), timeout=0.5)).kind == "timeout"
        assert not runner.alive

    asyncio.run(main())
    assert ended == [True]


def test_rewards(tmp_path):
    rewards = """
        from rnow import reward, RewardArgs, get_response

        @reward(sandbox=True)
        def length(args: RewardArgs, messages: list) -> float:
            return len(get_response(messages)) + args.metadata["more"]

        @reward
        async def judge(args, messages):
            return args.variables["score"]

        @reward
        def none(args, messages):
            pass

        @reward
        def broken(args, messages):
            return 1 / 0
    """
    messages = [{"role": "assistant", "content": [{"type": "text", "text": "four"}]}, {"role": "tool"}]

    async def use(runner):
        loaded = await runner.load(project_files(folder), "rewards.py")
        assert loaded.rewards == ("length", "judge", "none", "broken")
        context = ToolContext({"more": 1}, {"score": 0.5})
        assert await runner.reward("length", messages, context, timeout=30) == 5.0
        assert await runner.reward("judge", messages, context, timeout=30) == 0.5
        for name, problem in (
            ("none", "returned None, expected a finite number (is a `return` missing?)"),
            ("broken", "raised ZeroDivisionError: division by zero (rewards.py:18)"),
            ("other", "is not defined"),
        ):
            with pytest.raises(RewardFailure) as caught:
                await runner.reward(name, messages, context, timeout=30)
            assert problem in caught.value.problem

    folder = write(tmp_path / "p", "", rewards=rewards)
    with_runner(folder, use)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (7, "exit code 7"),
        (-9, "signal SIGKILL"),
        (137, "signal SIGKILL"),
        (139, "signal SIGSEGV"),
        (255, "exit code 255"),
    ],
)
def test_endings(code, said):
    assert ending(code) == said
