"""Tools in real containers: what reaches them, what they can do, and what happens when they break."""

import asyncio

import pytest
from offline_image import NO_PYTHON
from sandbox_project import call, until

from rnow_core.env.sandbox.cleanup import list_sandboxes
from rnow_core.errors import FindingsError, RnowError, RolloutFailed

pytestmark = pytest.mark.container

ECHO = """
@tool(sandbox=True)
def echo(text: str) -> str:
    "Say it again."
    return text
"""

SHOW = """
import os, subprocess

@tool(sandbox=True)
def show(command: str) -> str:
    "Run a shell command."
    return subprocess.run(command, shell=True, capture_output=True, text=True, errors="replace").stdout.strip()

@tool(sandbox=True)
def variable(name: str) -> str:
    "An environment variable."
    return os.environ.get(name, "-")
"""


def test_a_tool_runs_inside_and_nothing_is_left_afterwards(project, engine):
    async def scenario():
        async with project.sandboxes() as sandboxes:
            sandbox = await sandboxes.open(project.spec(ECHO))
            result = await call(sandbox, "echo", text="hello")
            names = [row.name for row in await list_sandboxes(engine)]
            await sandbox.close()
        return result, names

    result, names = asyncio.run(scenario())
    assert (result.text, result.kind) == ("hello", "ok")
    assert any(name.startswith("rnow-test-run-") for name in names)
    assert asyncio.run(list_sandboxes(engine)) == []


def test_environment_and_named_secrets_enter_and_nothing_else(project, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "private")
    row = {"WORD": "two words", "LINES": "a\nb", "PATH": "/usr/local/bin:/bin:/extra"}
    names = ["WORD", "LINES", "PATH", "KEY", "HF_TOKEN", "RNOW_SANDBOX_ARGS"]

    async def scenario():
        async with project.sandboxes() as sandboxes:
            sandbox = await sandboxes.open(project.spec(SHOW, env=row, secrets={"KEY": "s3cret"}))
            return [(await call(sandbox, "variable", name=name)).text for name in names]

    assert asyncio.run(scenario()) == ["two words", "a\nb", "/usr/local/bin:/bin:/extra", "s3cret", "-", "-"]


def test_a_tool_has_no_capabilities_and_can_win_none(project):
    async def scenario():
        async with project.sandboxes() as sandboxes:
            sandbox = await sandboxes.open(project.spec(SHOW))
            return (await call(sandbox, "show", command="grep -E 'Cap|NoNew' /proc/self/status")).text

    status = dict(line.split(":\t") for line in asyncio.run(scenario()).splitlines())
    assert {int(value, 16) for name, value in status.items() if name.startswith("Cap")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_the_hosts_files_are_not_there(project):
    project.write("private.txt", "of the host")

    async def scenario():
        async with project.sandboxes() as sandboxes:
            sandbox = await sandboxes.open(project.spec(SHOW))
            return await call(
                sandbox, "show", command=f"cat {project.folder}/private.txt; ls {project.folder}"
            )

    assert asyncio.run(scenario()).text == ""


def test_a_hung_tool_and_its_children_are_ended_inside_and_the_container_stays(project):
    tools = (
        SHOW
        + """
@tool(sandbox=True)
def hang() -> str:
    "Never ends, and neither does what it starts."
    open("/tmp/kept", "w").write("state")
    subprocess.Popen(["sleep", "43210"], start_new_session=True)
    subprocess.Popen(["sh", "-c", "sleep 43211 & sleep 43212"], env={"PATH": "/bin"})
    subprocess.run(["sleep", "43213"])
    return ""
"""
    )

    async def scenario():
        async with project.sandboxes() as sandboxes:
            sandbox = await sandboxes.open(project.spec(tools))
            hung = await call(sandbox, "hang", timeout=1.0)
            left = await call(sandbox, "show", command="ps | grep -c '[s]leep 4321'; cat /tmp/kept")
        return hung, left

    hung, left = asyncio.run(scenario())
    assert hung.kind == "timeout"
    assert left.text.split() == ["0", "state"]


def test_memory_is_bounded(project):
    tools = (
        ECHO
        + """
@tool(sandbox=True)
def eat() -> str:
    "Fill the memory."
    return str(len([bytearray(1 << 24) for _ in range(64)]))
"""
    )

    async def scenario():
        async with project.sandboxes(memory="128m") as sandboxes:
            sandbox = await sandboxes.open(project.spec(tools))
            return await call(sandbox, "eat"), await call(sandbox, "echo", text="still here")

    eaten, after = asyncio.run(scenario())
    assert (eaten.kind, after.text) == ("died", "still here")


def test_a_fork_bomb_is_bounded_and_ended(project):
    tools = (
        ECHO
        + """
import os, time

@tool(sandbox=True)
def bomb() -> str:
    "Fork for ever."
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.2)
"""
    )

    async def scenario():
        async with project.sandboxes(pids=24) as sandboxes:
            sandbox = await sandboxes.open(project.spec(tools))
            return await call(sandbox, "bomb", timeout=2.0), await call(sandbox, "echo", text="still here")

    bombed, after = asyncio.run(scenario())
    assert bombed.kind in ("timeout", "died")
    assert after.text == "still here"


def test_a_container_killed_from_outside_is_a_dead_tool_and_a_fresh_container(project, engine):
    tools = (
        SHOW
        + """
import time

@tool(sandbox=True)
def wait() -> str:
    "Wait."
    time.sleep(60)
    return "done"
"""
    )

    async def scenario():
        async with project.sandboxes() as sandboxes:
            sandbox = await sandboxes.open(project.spec(tools))
            await call(sandbox, "show", command="echo old > /tmp/state")
            [row] = await list_sandboxes(engine)
            waiting = asyncio.create_task(call(sandbox, "wait"))
            await asyncio.sleep(1.0)
            await engine.require("kill", row.name)
            result = await waiting
            after = await call(sandbox, "show", command="cat /tmp/state; echo fresh")
        return result, after

    result, after = asyncio.run(scenario())
    assert (result.kind, after.text) == ("died", "fresh")


def test_containers_that_keep_dying_fail_the_rollout(project, engine):
    async def scenario():
        async with project.sandboxes() as sandboxes:
            sandbox = await sandboxes.open(project.spec(SHOW))
            for _ in range(9):
                await call(sandbox, "show", command="true")
                await engine.call("kill", *(row.name for row in await list_sandboxes(engine)))

    with pytest.raises(RolloutFailed, match="came to an end in one rollout"):
        asyncio.run(scenario())
    assert asyncio.run(list_sandboxes(engine)) == []


def test_a_tool_that_empties_its_filesystem_harms_its_own_container_only(project):
    async def scenario():
        async with project.sandboxes(max_containers=2) as sandboxes:
            first, second = [await sandboxes.open(project.spec(SHOW)) for _ in range(2)]
            await call(first, "show", command="rm -rf /usr /lib /lib64 /bin /etc 2>/dev/null")
            return await call(second, "show", command="echo well")

    assert asyncio.run(scenario()).text == "well"


def test_tools_that_cannot_be_loaded_are_found_with_their_line(project, engine):
    async def scenario():
        async with project.sandboxes() as sandboxes:
            await sandboxes.open(project.spec("import numpy_that_only_others_have\n"))

    with pytest.raises(FindingsError, match="numpy_that_only_others_have"):
        asyncio.run(scenario())
    assert asyncio.run(list_sandboxes(engine)) == []


def test_an_image_without_python_is_named(project):
    async def scenario():
        async with project.sandboxes() as sandboxes:
            await sandboxes.open(project.spec(ECHO, image=NO_PYTHON))

    with pytest.raises(RnowError, match="rnow-test/busybox:1 has no Python"):
        asyncio.run(scenario())


def test_the_runs_shared_container_has_a_runner_for_each_sandbox(project, engine):
    async def scenario():
        async with project.sandboxes(scope="run") as sandboxes:
            first, second = await asyncio.gather(*(sandboxes.open(project.spec(SHOW)) for _ in range(2)))
            await call(first, "show", command="echo shared > /tmp/state")
            await first.close()
            seen = await call(second, "show", command="cat /tmp/state")
            return seen.text, len(await list_sandboxes(engine)), await first_after_close(first)

    async def first_after_close(sandbox):
        with pytest.raises(RolloutFailed, match="closed"):
            await sandbox.runner()
        return "closed"

    assert asyncio.run(scenario()) == ("shared", 1, "closed")


def test_containers_are_ready_before_they_are_asked_for(project, engine):
    async def scenario():
        async with project.sandboxes(max_containers=2) as sandboxes:
            sandboxes.prepare(project.spec(SHOW), 2)
            await until(lambda: _running(engine, 2))
            first = await sandboxes.open(project.spec(SHOW))
            await call(first, "show", command="touch /tmp/used")
            await first.close()
            opened = [await sandboxes.open(project.spec(SHOW)) for _ in range(2)]
            return [(await call(sandbox, "show", command="ls /tmp")).text for sandbox in opened]

    assert asyncio.run(scenario()) == ["", ""]


async def _running(engine, count):
    return len(await list_sandboxes(engine)) == count
