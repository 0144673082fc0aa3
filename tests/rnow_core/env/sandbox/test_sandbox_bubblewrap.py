"""Sandboxed tools of rows without an image: this machine's Python, and nothing else of this machine."""

import asyncio
import contextlib
import os
import shutil
from pathlib import Path

import pytest
from sandbox_project import call

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox.bubblewrap import BubblewrapSandboxes
from rnow_core.env.tool_types import SandboxSpec
from rnow_core.errors import EnvironmentMissing

pytestmark = pytest.mark.container

TOOLS = """
from rnow.core import tool
import os, socket, subprocess, time

@tool(sandbox=True)
def show(command: str) -> str:
    "Run a shell command."
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()

@tool(sandbox=True)
def route(host: str) -> str:
    "Whether there is a route."
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
    return "route"

@tool(sandbox=True)
def eat() -> str:
    "Fill the memory."
    return str(len([bytearray(1 << 24) for _ in range(64)]))

@tool(sandbox=True)
def hang(mark: str) -> str:
    "Never ends."
    subprocess.Popen(["sleep", mark], start_new_session=True)
    time.sleep(600)
    return ""
"""


def run(scenario, **parts):
    """Run with a sandbox of its own."""

    async def main():
        spec = SandboxSpec(
            None, **({"env": {}, "secrets": {}, "network": False, "files": {"tools.py": TOOLS}} | parts)
        )
        sandbox = await BubblewrapSandboxes(SandboxConfig(memory="256m")).open(spec)
        try:
            return await scenario(sandbox)
        finally:
            await sandbox.close()

    return asyncio.run(main())


def shown(*commands, **parts):
    async def scenario(sandbox):
        return [(await call(sandbox, "show", command=command)).text for command in commands]

    return run(scenario, **parts)


def test_a_tool_has_empty_folders_of_its_own_and_sees_no_other_file(tmp_path):
    (tmp_path / "private.txt").write_text("of the host")
    listed, wrote, private, etc, root = shown(
        "pwd; ls -A",
        "echo x > file; cat file",
        f"cat {tmp_path}/private.txt",
        "ls /etc",
        "touch /file /usr/file",
    )
    assert listed == "/home/sandbox"
    assert wrote == "x"
    assert "No such file" in private
    assert "shadow" not in etc
    assert root.count("Read-only file system") == 2


def test_only_named_variables_enter(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "private")
    [variables] = shown("env", env={"WORD": "two words"}, secrets={"KEY": "s3cret"})
    assert "WORD=two words" in variables
    # The log hides the values of secrets, the result does not.
    assert "KEY=s3cret" in variables
    assert "HF_TOKEN" not in variables


def test_other_processes_are_out_of_sight_and_capabilities_are_gone():
    processes, status = shown("ls -d /proc/[0-9]* | wc -l", "grep CapEff /proc/self/status")
    assert int(processes) < 12
    assert int(status.split()[1], 16) == 0
    assert f"/proc/{os.getpid()}" not in processes


def test_there_is_no_network():
    async def scenario(sandbox):
        return [
            (await call(sandbox, "route", host=host)) for host in ("8.8.8.8", "10.0.0.1", "169.254.169.254")
        ]

    assert all("Network is unreachable" in result.text for result in run(scenario))
    with pytest.raises(EnvironmentMissing, match="no network"):
        run(scenario, network=True)


def test_memory_and_disk_are_bounded():
    async def scenario(sandbox):
        full = await call(sandbox, "show", command="head -c 200m /dev/zero > /tmp/big; rm /tmp/big")
        return (
            full.text,
            (await call(sandbox, "eat")).kind,
            (await call(sandbox, "show", command="echo well")).text,
        )

    full, eaten, after = run(scenario)
    assert "No space left" in full
    assert eaten in ("raised", "died")
    assert after == "well"


def test_a_hung_tool_ends_with_everything_it_started():
    mark = f"{os.getpid()}.5"

    async def scenario(sandbox):
        hung = await call(sandbox, "hang", timeout=1.0, mark=mark)
        return hung.kind, (await call(sandbox, "show", command="echo well")).text

    assert run(scenario) == ("timeout", "well")
    commands = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            commands.append(file.read_text())
    assert [command for command in commands if mark in command] == []


def test_a_machine_without_bubblewrap_says_what_to_do(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EnvironmentMissing, match="need bubblewrap") as missing:
        shown("true")
    assert "docker" in missing.value.hint
