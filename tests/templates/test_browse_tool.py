"""The on-distill-agent template's `browse` tool against real HTTP, and without any."""

import ast
import asyncio
import socket
import sys
import threading
import time

import pytest
from stand_in_crawl4ai import CRAWL, LONG, MD

from rnow.assets import asset_root
from rnow_core.env.runner.bundle import python_command
from rnow_core.env.runner_process import RunnerProcess
from rnow_core.env.tool_types import ToolContext

TEMPLATE = asset_root() / "templates" / "on-distill-agent"


def test_tools_py_needs_no_more_than_python_3_8(tools):
    tree = ast.parse((TEMPLATE / "tools.py").read_text(), feature_version=(3, 8))
    names = {
        name.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    }
    names |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - sys.stdlib_module_names == {"rnow"}


def test_the_runner_takes_the_project_s_files_as_they_are(tools):
    async def load_and_call():
        runner = RunnerProcess(
            python_command(sys.executable), environment={"RNOW_BROWSE_REPLAY": str(TEMPLATE / "pages")}
        )
        try:
            await runner.start()
            loaded = await runner.load(
                {path.name: path.read_text() for path in TEMPLATE.glob("*.py")}, "tools.py"
            )
            arguments = {"url": "https://trials.example.org/study/EX-1001"}
            return loaded.tools, await runner.call("browse", arguments, ToolContext(), timeout=30)
        finally:
            await runner.kill()

    (browse,), result = asyncio.run(load_and_call())
    assert (browse.name, browse.sandbox) == ("browse", True)
    assert browse.timeout > tools.PATIENCE, "it can still say why there is no page"
    assert browse.parameters["required"] == ["url"]
    assert "full address" in browse.parameters["properties"]["url"]["description"]
    assert result.ok
    assert "lumivastat" in result.text


@pytest.mark.parametrize("token_from", ["environment", "file"])
def test_a_page_of_a_server_that_wants_a_token(token_from, tools, serve, tmp_path, monkeypatch):
    server = serve(token="s3cret")
    if token_from == "environment":
        monkeypatch.setenv("CRAWL4AI_API_TOKEN", "s3cret")
    else:
        (tmp_path / "token").write_text("s3cret\n")
        monkeypatch.setattr(tools, "TOKEN_FILE", tmp_path / "token")
    assert tools.browse("https://a.example/x?q=1#part") == "# Page\n\nThis is https://a.example/x?q=1."
    assert server.seen == [(MD, {"url": "https://a.example/x?q=1", "f": "fit"})]


@pytest.mark.parametrize("endpoints", [(MD, CRAWL), (CRAWL,)])
def test_a_page_of_a_server_before_tokens(endpoints, tools, serve):
    server = serve(endpoints=endpoints)
    assert tools.browse("https://a.example/x") == "# Page\n\nThis is https://a.example/x."
    assert server.seen[-1][0] == endpoints[0]
    if endpoints == (CRAWL,):
        assert server.seen[-1][1]["urls"] == ["https://a.example/x"]


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("status/400", "refused this address; only public http and https pages can be opened (URL blocked"),
        ("status/401", "did not accept this project's token"),
        ("status/413", "too large"),
        ("status/418", "HTTP status 418 (from the server)"),
        ("status/429", "too many pages"),
        ("status/500", "could not be opened"),
        ("status/504", "took too long to load"),
        ("failed", "could not be opened"),
        ("blank", "no readable text"),
        ("garbage", "was not understood"),
        ("hangup", "broke off"),
    ],
)
@pytest.mark.parametrize(
    "options", [{"token": "s3cret"}, {}, {"endpoints": (CRAWL,)}], ids=["0.9", "0.8", "crawl"]
)
def test_failures_become_one_short_line_for_the_model(page, said, options, tools, serve, monkeypatch):
    serve(**options)
    monkeypatch.setenv("CRAWL4AI_API_TOKEN", "s3cret")
    answer = tools.browse(f"https://a.example/{page}")
    assert answer.startswith("Error: ")
    assert said in answer
    assert len(answer.splitlines()) == 1
    assert len(answer) < 300
    assert "correlation" not in answer


def test_what_is_known_of_a_failed_crawl_is_passed_on(tools, serve):
    serve(endpoints=(CRAWL,))
    assert "net::ERR_NAME_NOT_RESOLVED)" in tools.browse("https://a.example/failed")
    assert tools.browse("https://a.example/unsuccessful").endswith(
        "could not be opened: Timeout 60000ms exceeded."
    )


def test_the_wrong_token_is_refused_and_said_on_stderr(tools, serve, monkeypatch, capsys):
    serve(token="s3cret")
    monkeypatch.setenv("CRAWL4AI_API_TOKEN", "other")
    assert "did not accept this project's token" in tools.browse("https://a.example/x")
    said = capsys.readouterr()
    assert "CRAWL4AI_API_TOKEN" in said.err
    assert "other" not in said.err
    assert said.out == ""


def test_a_page_without_main_content_is_shown_whole(tools, serve):
    server = serve()
    assert tools.browse("https://a.example/empty") == "the whole page"
    assert [body["f"] for _, body in server.seen] == ["fit", "raw"]


def test_a_long_page_is_cut_at_a_line_and_says_so(tools, serve):
    serve()
    page = tools.browse("https://a.example/long")
    text, _, note = page.rpartition("\n\n")
    assert LONG.startswith(text + "\n")
    assert 0.9 * tools.MAX_CHARACTERS < len(text) <= tools.MAX_CHARACTERS
    assert note == f"[cut: {len(LONG.strip()) - len(text)} more characters of this page are not shown]"


def test_a_server_that_is_too_slow_is_given_up(tools, serve, monkeypatch):
    serve()
    monkeypatch.setattr(tools, "PATIENCE", 0.3)
    assert "took too long" in tools.browse("https://a.example/slow")


def test_a_server_that_still_starts_is_waited_for(tools, serve, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("CRAWL4AI_URL", f"http://127.0.0.1:{port}")
    assert "is not running" in tools.browse("https://a.example/x")
    monkeypatch.setattr(tools, "START_UP", 60.0)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(tools.browse("https://a.example/x")))
    thread.start()
    time.sleep(0.2)
    serve(port=port)
    thread.join(60)
    assert answers == ["# Page\n\nThis is https://a.example/x."]


def test_no_proxy_stands_between_the_tool_and_its_server(tools, serve, monkeypatch):
    serve()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert tools.browse("https://a.example/x").startswith("# Page")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("clinicaltrials.gov/study/NCT1", "https://clinicaltrials.gov/study/NCT1"),
        (" <https://A.Example> ", "https://a.example/"),
        ("HTTP://a.example:8080/B?c=D#e", "http://a.example:8080/B?c=D"),
    ],
)
def test_addresses_are_completed(given, address, tools):
    assert tools.full_address(given) == address


@pytest.mark.parametrize(
    "given",
    [
        "",
        "NCT02296125",
        "what is aspirin?",
        "file:///etc/passwd",
        "ftp://a.example/",
        "https://",
        "http://[x/",
    ],
)
def test_what_is_no_address_never_reaches_the_server(given, tools, serve):
    server = serve()
    assert "not the address of a web page" in tools.browse(given)
    assert server.seen == []


def test_pages_survive_recording(tools, serve, tmp_path, monkeypatch):
    server = serve()
    monkeypatch.setenv("RNOW_BROWSE_RECORD", str(tmp_path / "pages"))
    addresses = ["https://a.example/x?a=1", "https://a.example/x?a=2", "https://a.example/long"]
    live = [tools.browse(address) for address in addresses]
    assert tools.browse("https://a.example/status/504").startswith("Error")
    assert len(list((tmp_path / "pages").iterdir())) == 3, "errors are not kept"
    server.shutdown()
    monkeypatch.setenv("RNOW_BROWSE_REPLAY", str(tmp_path / "pages"))
    monkeypatch.setenv("CRAWL4AI_URL", "http://127.0.0.1:1")
    assert [tools.browse(address + "#again") for address in addresses] == live
    unknown = tools.browse("https://b.example/")
    assert unknown.startswith(
        "Error: there is no recorded page for https://b.example/; recorded pages: https://a"
    )


def test_pages_are_recorded_and_read_from_the_command_line(tools, serve, tmp_path, monkeypatch, capsys):
    serve()
    folder, address = str(tmp_path / "pages"), "https://a.example/x"
    for name in ("RNOW_BROWSE_RECORD", "RNOW_BROWSE_REPLAY"):
        monkeypatch.setenv(name, "")  # main sets them; this puts them back afterwards

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["tools.py", *arguments])
        return tools.main(), capsys.readouterr()

    code, live = call(address, "--record", folder)
    again, replayed = call(address, "--replay", folder)
    assert (code, again, replayed.out) == (0, 0, live.out)
    assert "This is https://a.example/x." in live.out
    code, said = call(address, "https://b.example", "--replay", folder)
    assert (code, said.out) == (1, live.out)
    assert "no recorded page" in said.err
