"""Tools of MCP servers: real servers made with the SDK, in processes of their own."""

import asyncio
import subprocess
import sys

import pytest
from mcp_servers import Server, running

from rnow_core.env import mcp_session
from rnow_core.env.mcp_tools import McpServers
from rnow_core.env.tool_types import ToolInfo
from rnow_core.errors import EnvironmentMissing

pytest.importorskip("mcp")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("mcp"), "add,fail,long,hang,picture,record") as server:
        yield server


def listed(*urls, key=None, **options):
    return asyncio.run(McpServers(urls, key).tools(**options))


def problem(url, **options):
    tools, (found,) = listed(url, **options)
    assert tools == []
    assert isinstance(found, EnvironmentMissing)
    return found


def with_calls(use, key=None):
    """Run `await use(call)` with the calls of one rollout; `call(server, name, **arguments)`."""

    async def main():
        calls = McpServers((), key).calls()

        async def call(server, name, timeout=30.0, limit=10_000, **arguments):
            info = ToolInfo(name, "", {"type": "object"}, server=server.url)
            return await calls.call(info, arguments, timeout=timeout, limit=limit)

        try:
            return await asyncio.wait_for(use(call), 60)
        finally:
            await calls.close()

    return asyncio.run(main())


def test_a_server_lists_its_tools(server):
    tools, problems = listed(server.url)
    assert problems == []
    assert [tool.name for tool in tools] == ["add", "fail", "long", "hang", "picture", "record"]
    add = tools[0]
    assert (add.description, add.server, add.timeout, add.sandbox) == (
        "Add two numbers.",
        server.url,
        None,
        False,
    )
    assert add.parameters["required"] == ["a", "b"]
    assert add.parameters["properties"]["a"]["type"] == "integer"


def test_what_comes_back_from_calls(server):
    async def use(call):
        return await asyncio.gather(
            call(server, "add", a=2, b=3),
            call(server, "fail", text="way"),
            call(server, "picture"),
            call(server, "record"),
            call(server, "long", limit=10, size=1000),
            call(server, "nothing_like_it"),
            call(server, "hang", timeout=1.0),
        )

    add, fail, picture, record, long, unknown, hang = with_calls(use)
    assert (add.text, add.kind, add.ok) == ("5", "ok", True)
    assert (fail.kind, fail.ok) == ("raised", False)
    assert "no way" in fail.text
    assert picture.text == "[image, image/png: not shown]\na caption"
    assert (record.text, record.ok) == ('{"name": "Zoë", "age": 3}', True)
    assert long.cut
    assert long.text == "x" * 10 + "\n[output cut: the first 10 of 1000 characters]"
    assert not unknown.ok
    assert "nothing_like_it" in unknown.text
    assert (hang.text, hang.kind) == ("`hang` took longer than 1 s and was stopped", "timeout")


def test_calls_go_on_after_one_that_hangs(server):
    async def use(call):
        hang = await call(server, "hang", timeout=0.5)
        return hang, await call(server, "add", a=1, b=1)

    hang, add = with_calls(use)
    assert (hang.kind, add.text) == ("timeout", "2")


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_a_server_that_dies_and_comes_back(tmp_path, transport):
    async def use(call):
        first = await call(server, "add", a=1, b=1)
        server.stop()
        gone = await call(server, "add", a=1, b=2)
        await asyncio.to_thread(server.start)
        return first, gone, await call(server, "add", a=1, b=3)

    with running(tmp_path, "add", transport=transport) as server:
        first, gone, again = with_calls(use)
    assert (first.text, again.text) == ("2", "4")
    assert gone.kind == "died"
    assert f"no MCP server at {server.url}" in gone.text


@pytest.mark.parametrize("transport", ["http", "legacy", "sse"])
def test_a_session_that_the_server_forgot_is_begun_anew(tmp_path, transport):
    async def use(call):
        first = await call(server, "add", a=1, b=1)
        server.stop()
        await asyncio.to_thread(server.start)
        return first, await call(server, "add", a=1, b=3)

    with running(tmp_path, "add", transport=transport) as server:
        first, again = with_calls(use)
        assert server.called() == ["add", "add"]
    assert (first.text, again.text) == ("2", "4")


def test_a_call_that_took_its_server_down_is_not_repeated(tmp_path):
    async def use(call):
        died = await call(server, "die")
        await asyncio.to_thread(server.start)
        return died, await call(server, "add", a=1, b=3)

    with running(tmp_path, "add,die") as server:
        died, add = with_calls(use)
    assert died.kind == "died"
    assert "lost its MCP server" in died.text
    assert add.text == "4"
    assert server.called() == ["die", "add"]


def test_one_server_that_answers_and_one_that_does_not(server, tmp_path):
    gone = Server(tmp_path, "add")
    tools, (problem,) = listed(gone.url, server.url)
    assert len(tools) == 6
    assert gone.url in problem.message


def test_no_server_names_the_address_without_its_secrets(tmp_path):
    url = Server(tmp_path, "add").url
    error = problem(url.replace("http://", "http://me:word@") + "?apiKey=hidden")
    assert error.message.startswith(f"no MCP server at {url}: ")
    assert "hidden" not in str(error) + error.hint
    assert "word" not in str(error)
    assert "start the server" in error.hint
    assert "container" in error.hint


def test_a_wrong_path_and_something_else_than_a_server(server):
    error = problem(server.url.replace("/mcp", "/"))
    assert "HTTP 404" in error.message
    assert "path" in error.hint


def test_a_server_that_does_not_answer(tmp_path):
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        error = problem(f"http://127.0.0.1:{silent.getsockname()[1]}/mcp", timeout=0.5)
    assert "within 0.5 s" in error.message


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_the_key_is_sent_as_bearer_token(tmp_path, transport):
    with running(tmp_path, "add", transport=transport, key="open") as server:
        (tool,), problems = listed(server.url, key="open")
        assert (tool.name, problems) == ("add", [])
        assert with_calls(lambda call: call(server, "add", a=1, b=1), key="open").text == "2"
        error = problem(server.url, key="wrong")
    assert "HTTP 401" in error.message
    assert "RNOW_MCP_API_KEY" in error.hint


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(EnvironmentMissing) as caught:
        listed("http://127.0.0.1:9/mcp")
    assert caught.value.hint == 'pip install "rnow-distill[mcp]"'


def test_the_package_is_imported_only_where_servers_are_named():
    code = (
        "import sys, rnow_core.env.toolbox, rnow_core.preflight.tools; sys.exit('mcp.client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_an_address_shows():
    assert mcp_session.shown("https://a:b@host:1/mcp?key=c#d") == "https://host:1/mcp"
