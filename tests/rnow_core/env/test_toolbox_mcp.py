"""A tool box with tools of the project and of MCP servers."""

import asyncio

import pytest
from mcp_servers import running
from tool_projects import inspected, write

from rnow_core.env.mcp_tools import McpServers
from rnow_core.env.toolbox import ToolBox
from rnow_core.errors import RnowError
from rnow_core.types import Prompt

pytest.importorskip("mcp")
TOOLS = """
    from rnow import tool

    @tool
    def shout(text: str) -> str:
        "Shouts."
        return text.upper()
"""


def prompt(tools=None):
    return Prompt(0, ({"role": "user", "content": "q"},), "train.jsonl", 3, tools=tools)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mcp")


@pytest.fixture(scope="module")
def servers(folder):
    with running(folder, "add,hang") as first, running(folder, "plus=add,fail") as second:
        yield McpServers([first.url, second.url])


@pytest.fixture(scope="module")
def project(folder):
    return write(folder / "p", TOOLS)


def test_tools_of_the_project_and_of_two_servers(project, servers):
    served, _ = asyncio.run(servers.tools())
    tools = [*inspected(project).values(), *served]

    async def main():
        box = ToolBox(project, tools, timeout=20, mcp=servers)
        try:
            names = [schema["function"]["name"] for schema in box.schemas(prompt())]
            few = [schema["function"]["name"] for schema in box.schemas(prompt(("plus", "shout")))]
            async with box.session(prompt(("shout", "add", "plus", "fail")), "rollout") as session:
                results = await asyncio.gather(
                    session.call("shout", {"text": "a"}),
                    session.call("add", {"a": 1, "b": 2}),
                    session.call("plus", {"a": 3, "b": 4}),
                    session.call("fail", {"text": "way"}),
                    session.call("add", {"a": "one"}),
                    session.call("hang", {}),
                )
            return names, few, results
        finally:
            await box.close()

    names, few, (shout, add, plus, fail, wrong, hang) = asyncio.run(main())
    assert names == ["shout", "add", "hang", "plus", "fail"]
    assert few == ["plus", "shout"]
    assert (shout.text, add.text, plus.text) == ("A", "3", "7")
    assert add.seconds > 0
    assert (fail.kind, fail.ok) == ("raised", False)
    assert "no way" in fail.text
    assert wrong.kind == "arguments"
    assert '`a` is "one" (text), expected an integer' in wrong.text
    assert "missing parameter `b`" in wrong.text
    assert hang.kind == "unknown"


def test_a_name_that_two_have_names_both(project, servers, folder):
    served, _ = asyncio.run(servers.tools())
    own = list(inspected(write(folder / "other", TOOLS.replace("shout", "plus"))).values())
    with pytest.raises(RnowError) as caught:
        ToolBox(project, [*own, *served], mcp=servers)
    assert caught.value.message == (
        f"two tools are named `plus`: one of tools.py, one of the MCP server {servers.urls[1]}"
    )
