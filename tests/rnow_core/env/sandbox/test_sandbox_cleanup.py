"""Nothing outlives its owner for long, and a machine without an engine is told so."""

import asyncio
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from offline_image import IMAGE
from sandbox_project import call

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox.cleanup import collect_garbage, list_sandboxes
from rnow_core.env.sandbox.containers import ContainerSandboxes
from rnow_core.env.sandbox.diagnose import diagnose
from rnow_core.env.sandbox.engine import find_engine
from rnow_core.env.sandbox.owner import Owner, this_process
from rnow_core.errors import EnvironmentMissing, RolloutFailed

OWNER = """
import asyncio, sys
from pathlib import Path
from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox.containers import start_containers
from rnow_core.env.tool_types import SandboxSpec

async def main():
    sandboxes = await start_containers(SandboxConfig(memory="128m", max_containers=1), Path("."), run="doomed")
    await sandboxes.open(SandboxSpec(sys.argv[1], {}, {}, False, {}))
    print("open", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.container
def test_containers_of_a_killed_run_are_removed_by_the_next_and_those_of_living_ones_are_not(project, engine):
    project.write("owner.py", OWNER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    owner = subprocess.Popen(
        [sys.executable, "owner.py", IMAGE],
        cwd=project.folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout.readline() == "open\n"
        [row] = asyncio.run(list_sandboxes(engine))
        assert (row.run, row.orphan, row.state) == ("doomed", False, "running")
        assert asyncio.run(collect_garbage(engine)) == []
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    assert asyncio.run(list_sandboxes(engine))[0].orphan
    said = {check.name: check for check in asyncio.run(diagnose(SandboxConfig()))}
    assert row.name in said["leftovers"].message

    async def next_run():
        async with project.sandboxes() as sandboxes:
            names = [row.name for row in await list_sandboxes(engine)]
            await call(await sandboxes.open(project.spec("")), "none")
        return names

    assert asyncio.run(next_run()) == []


@pytest.mark.container
def test_an_interrupted_run_leaves_nothing(project, engine):
    async def scenario():
        async with project.sandboxes(max_containers=4) as sandboxes:
            opening = [asyncio.create_task(sandboxes.open(project.spec(""))) for _ in range(3)]
            await asyncio.sleep(0.5)
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(scenario())
    assert asyncio.run(list_sandboxes(engine)) == []


def test_an_owner_is_its_process_and_no_later_one_with_its_number():
    me = this_process()
    assert Owner.parse(me.label) == me
    assert not me.gone
    assert Owner(me.machine, me.pid, me.started + "1").gone
    assert not Owner("another machine", me.pid, "x").gone
    assert Owner.parse("nonsense") is None


def _program(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n" + textwrap.dedent(text))
    (folder / name).chmod(0o755)


def test_every_engine_that_does_not_answer_is_named(tmp_path, monkeypatch):
    _program(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentMissing) as missing:
        asyncio.run(find_engine())
    assert missing.value.exit_code == 3
    assert "docker: Cannot connect to the Docker daemon; podman: not installed" in missing.value.message
    [check, *_] = asyncio.run(diagnose(SandboxConfig()))
    assert (check.name, check.ok) == ("containers", False)


def test_extra_words_go_before_every_subcommand(tmp_path, monkeypatch):
    _program(tmp_path, "docker", """echo "{\\"words\\": \\"$*\\"}" """)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("RNOW_SANDBOX_ARGS", "--context 'my box'")
    monkeypatch.setenv("RNOW_SANDBOX_RUN_ARGS", "--ulimit nofile=9:9")
    engine = asyncio.run(find_engine("docker"))
    assert engine.info["words"] == "--context my box info --format {{json .}}"
    assert engine.run_words == ("--ulimit", "nofile=9:9")


@pytest.mark.container
def test_a_full_disk_costs_the_rollout_and_says_so(project, engine, tmp_path):
    full = f"""
        case "$*" in *--detach*) echo "Error: no space left on device" >&2; exit 125;; esac
        exec {shlex.join(engine.words)} "$@"
    """
    _program(tmp_path / "bin", "full", full)

    async def scenario():
        broken = dataclasses.replace(engine, words=(str(tmp_path / "bin" / "full"),))
        async with ContainerSandboxes(broken, SandboxConfig(), project.folder, run="full") as sandboxes:
            await sandboxes.open(project.spec(""))

    with pytest.raises(RolloutFailed, match="no space left on device"):
        asyncio.run(scenario())
