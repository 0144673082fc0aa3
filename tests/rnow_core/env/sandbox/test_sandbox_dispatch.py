"""A row with an image gets a container, one without gets bubblewrap."""

import asyncio

import pytest
from offline_image import IMAGE
from sandbox_project import call

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox.cleanup import list_sandboxes
from rnow_core.env.sandbox.dispatch import RowSandboxes

pytestmark = pytest.mark.container

HOME = """
import os

@tool(sandbox=True)
def home() -> str:
    "The home folder."
    return os.path.expanduser("~")
"""


def test_each_row_gets_its_kind(project, engine):
    async def scenario():
        config = SandboxConfig(memory="128m", max_containers=1)
        async with RowSandboxes(config, project.folder, run="rows", log=project.log) as sandboxes:
            plain = await sandboxes.open(project.spec(HOME, image=None))
            before = len(await list_sandboxes(engine))
            boxed = await sandboxes.open(project.spec(HOME, image=IMAGE))
            homes = [(await call(sandbox, "home")).text for sandbox in (plain, boxed)]
            await plain.close()
            await boxed.close()
        return before, homes

    before, (plain, boxed) = asyncio.run(scenario())
    assert before == 0
    assert plain == "/home/sandbox" != boxed
    assert asyncio.run(list_sandboxes(engine)) == []
