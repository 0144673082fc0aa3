"""Plain tools in several processes: calls do not disturb one another, nothing is left."""

import asyncio
import os

import pytest
from tool_projects import HEAD, linux, running, with_pool, write

from rnow_core.env.tool_pool import MAX_FILES, ToolPool, project_files
from rnow_core.env.tool_types import ToolContext
from rnow_core.errors import FindingsError

TOOLS = (
    HEAD
    + """
    @tool
    def number(n: int) -> int:
        "Gives it back."
        return n

    @tool
    def process() -> int:
        "Its process."
        return os.getpid()

    @tool
    def meet(folder: str, everyone: int) -> str:
        "Waits for the others."
        open(os.path.join(folder, str(os.getpid())), "w").close()
        while len(os.listdir(folder)) < everyone:
            time.sleep(0.01)
        return "met"

    @tool
    def hang() -> str:
        "Hangs."
        time.sleep(1000)

    @tool
    def leave() -> str:
        "Leaves."
        os._exit(3)
"""
)


@pytest.fixture
def project(tmp_path):
    return write(tmp_path / "p", TOOLS)


def call(pool, name, timeout=30.0, **arguments):
    return pool.call(name, arguments, ToolContext(), timeout=timeout)


def test_calls_run_beside_each_other(project, tmp_path):
    async def use(pool):
        return await asyncio.gather(
            *(call(pool, "meet", folder=str(tmp_path / "m"), everyone=4) for _ in range(4))
        )

    (tmp_path / "m").mkdir()
    assert [result.text for result in with_pool(project, use, size=4)] == ["met"] * 4


def test_500_calls_at_once_share_the_processes(project):
    async def use(pool):
        answers = await asyncio.gather(*(call(pool, "number", n=n) for n in range(500)))
        processes = await asyncio.gather(*(call(pool, "process") for _ in range(20)))
        return answers, {result.text for result in processes}

    answers, processes = with_pool(project, use, size=2)
    assert [int(result.text) for result in answers] == list(range(500))
    assert len(processes) <= 2


@linux
def test_bad_calls_disturb_no_other_and_leave_nothing(project, monkeypatch):
    monkeypatch.setenv("LC_TEST", mark := f"mark-{os.getpid()}-pool")

    async def use(pool):
        bad = [call(pool, name, timeout=limit) for name, limit in (("hang", 1), ("leave", 30)) * 2]
        good = [call(pool, "number", n=n) for n in range(40)]
        return await asyncio.gather(*bad, *good)

    results = with_pool(project, use, size=3)
    assert [result.kind for result in results[:4]] == ["timeout", "died", "timeout", "died"]
    assert [result.text for result in results[4:]] == [str(n) for n in range(40)]
    assert running(mark) == []


def test_a_cancelled_call_gives_its_place_back(project):
    async def use(pool):
        task = asyncio.create_task(call(pool, "hang"))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await call(pool, "number", n=7)

    assert with_pool(project, use, size=1).text == "7"


def test_every_process_runs_the_files_as_they_were_at_the_start(project):
    async def use(pool):
        first = await call(pool, "leave")
        (project / "tools.py").write_text("1 / 0")
        return first, await call(pool, "number", n=7)

    first, second = with_pool(project, use, size=1)
    assert (first.kind, second.text) == ("died", "7")


def test_a_project_that_cannot_be_loaded_is_a_result(project):
    (project / "tools.py").write_text("import not_there")
    result = with_pool(project, lambda pool: call(pool, "number", n=7))
    assert result.kind == "died"
    assert "tools.py:1: importing it raised ModuleNotFoundError" in result.text


def test_a_closed_pool_takes_no_calls(project):
    async def main():
        pool = ToolPool(project)
        await pool.close()
        return await call(pool, "number", n=7)

    assert "closed" in asyncio.run(main()).text


@linux
@pytest.mark.parametrize("turns", [1, 2, 3, 4, 6, 9])
def test_closing_while_a_process_starts_leaves_nothing(project, turns, monkeypatch):
    monkeypatch.setenv("LC_TEST", mark := f"mark-{os.getpid()}-close-{turns}")

    async def use(pool):
        task = asyncio.create_task(call(pool, "number", n=7))
        for _ in range(turns):
            await asyncio.sleep(0)
        await pool.close()
        return await task

    assert with_pool(project, use).kind == "died"
    assert running(mark) == []


def test_files_of_a_project(tmp_path):
    write(tmp_path, "x = 'é'", helper="")
    (tmp_path / "data.json").write_text("{}")
    assert project_files(tmp_path) == {"helper.py": "", "tools.py": "x = 'é'"}
    (tmp_path / "bad.py").write_bytes(b"\xff")
    with pytest.raises(FindingsError, match="utf-8"):
        project_files(tmp_path)
    for number in range(MAX_FILES):
        (tmp_path / f"f{number}.py").touch()
    with pytest.raises(FindingsError, match=f"{MAX_FILES + 3} Python files"):
        project_files(tmp_path)
