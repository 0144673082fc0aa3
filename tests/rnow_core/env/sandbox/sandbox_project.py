"""A project whose tools run in real containers."""

import asyncio
import textwrap
import time
from contextlib import asynccontextmanager

from offline_image import IMAGE

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox.containers import start_containers
from rnow_core.env.tool_types import SandboxSpec, ToolContext


class Project:
    """A project folder and the sandboxes for it."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder / "log.txt"
        folder.mkdir()

    def write(self, name, text):
        (self.folder / name).write_text(textwrap.dedent(text))

    def spec(self, tools, image=IMAGE, **changes):
        source = "from rnow.core import tool\n" + textwrap.dedent(tools)
        parts = {"env": {}, "secrets": {}, "network": False, "files": {"tools.py": source}}
        return SandboxSpec(image, **(parts | changes))

    @asynccontextmanager
    async def sandboxes(self, *, block_private=True, **config):
        settings = SandboxConfig(**({"memory": "256m", "max_containers": 1, "pids": 64} | config))
        async with await start_containers(
            settings, self.folder, run="test run", log=self.log, block_private=block_private
        ) as sandboxes:
            yield sandboxes


async def call(sandbox, tool, /, timeout=30.0, **arguments):
    """The result of a tool call in a sandbox."""
    runner = await sandbox.runner()
    return await runner.call(tool, arguments, ToolContext(), timeout=timeout)


async def until(condition, seconds=30.0):
    """Wait for what happens in the background."""
    deadline = time.monotonic() + seconds
    while not (value := await condition()):
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.1)
    return value
