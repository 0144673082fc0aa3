"""What `validate` says of MCP servers, and that a run calls what `validate` found."""

import asyncio

import pytest
from agents import TEMPLATE, TOOLS
from mcp_servers import Server, running
from tiny import row

from rnow_core.build.tools import make_tools

pytest.importorskip("mcp")
FINE = row("1+1=?", rewards=None)


@pytest.fixture
def agent(project):
    """A project whose student's template shows tools; it has none of its own."""
    for model in ("student", "teacher"):
        project.edit_json(f"{model}/tokenizer_config.json", chat_template=TEMPLATE)
    return project


def codes(project, *overrides):
    return {finding.code: finding for finding in project.check(*overrides).findings}


def test_a_server_that_cannot_be_reached_is_one_error_at_its_place(agent, tmp_path):
    url = Server(tmp_path, "add").url
    agent.rows(FINE, {**FINE, "tools": ["add"]})
    errors = [f for f in agent.findings(f"rollout.mcp_url={url}") if f.severity == "error"]
    (finding,) = errors
    assert (finding.code, finding.path) == ("RN404", "rollout.mcp_url")
    assert url in finding.message
    assert finding.hint


def test_tools_of_a_server_count_are_checked_and_run(agent, tmp_path, monkeypatch):
    monkeypatch.setenv("RNOW_MCP_API_KEY", "open")
    without = agent.check().plan["prompt_tokens"]["max"]
    agent.rows({**FINE, "tools": ["add"]}, FINE, FINE, FINE)
    with running(tmp_path, "add,long", key="open") as server:
        url = f'rollout.mcp_url=["{server.url}"]'
        report = agent.check(url)
        assert report.ok
        assert {finding.code for finding in report.findings} == {"RN238"}
        assert report.plan["prompt_tokens"]["max"] > without + 20
        assert called(report.project, tmp_path, "add", {"a": 2, "b": 3}).text == "5"

        agent.rows(FINE, {**FINE, "tools": ["browse"]})
        unknown = codes(agent, url)["RN236"]
        assert (unknown.line, unknown.hint) == (2, "the tools are: add, long")

        (agent.folder / "tools.py").write_text(TOOLS)
        both = codes(agent, url)["RN241"]
        assert "`add`: one of tools.py, one of the MCP server" in both.message


def called(project, folder, name, arguments):
    async def main():
        tools = make_tools(
            project.loaded.config,
            project.tools,
            project.renderer,
            sandboxed_rewards=False,
            project=project.folder,
            run_dir=folder / "run",
        )
        try:
            async with tools.toolbox.session(project.prompts[0], "rollout") as session:
                return await session.call(name, arguments)
        finally:
            await tools.close()

    return asyncio.run(main())
