"""What the tests of tools share: projects written on the spot, and runners of them."""

import asyncio
import os
import sys
import textwrap
from pathlib import Path

import pytest

from rnow_core.env.runner_process import RunnerProcess
from rnow_core.env.tool_pool import ToolPool, inspect_tools, local_runner, project_files
from rnow_core.env.tool_types import ToolContext
from rnow_core.errors import FindingsError

HEAD = """
    import asyncio, os, signal, sys, time
    from rnow.core import tool, ToolArgs
"""


def write(folder, tools, **others):
    """A project with this tools.py; returns its folder."""
    folder.mkdir(exist_ok=True)
    for name, source in {"tools": tools, **others}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    return folder


def inspected(folder, **options):
    return {info.name: info for info in inspect_tools(folder, **options)}


def findings(folder, **options):
    with pytest.raises(FindingsError) as caught:
        inspected(folder, **options)
    return caught.value.findings


def with_runner(folder, use, **options):
    """Run `await use(runner)` with a loaded runner of this project."""

    async def main():
        runner: RunnerProcess = local_runner(folder, {}, **options)
        try:
            await runner.start()
            await runner.load(project_files(folder))
            return await asyncio.wait_for(use(runner), 60)
        finally:
            await runner.close()

    return asyncio.run(main())


def with_pool(folder, use, **options):
    async def main():
        pool = ToolPool(folder, **options)
        try:
            return await asyncio.wait_for(use(pool), 120)
        finally:
            await pool.close()

    return asyncio.run(main())


def called(folder, name, arguments=None, timeout=30.0, context=None, **options):
    """The result of one call in a fresh process."""

    async def use(runner):
        return await runner.call(name, arguments or {}, context or ToolContext(), timeout=timeout, **options)

    return with_runner(folder, use)


def running(mark):
    """Processes of this machine whose environment has this mark (a variable that a test set)."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
