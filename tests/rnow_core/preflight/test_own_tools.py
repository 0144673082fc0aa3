"""A tools.py that only an image can load: what is known of its tools comes from there."""

import pytest
from agents import TEMPLATE
from offline_image import IMAGE
from tiny import row

pytestmark = pytest.mark.container

TOOLS = '''import only_in_the_image
from rnow import tool


@tool(sandbox=True)
def shout(text: str) -> str:
    """Say it loud."""
    return only_in_the_image.loud(text)
'''
DOCKERFILE = "FROM {image}\nCOPY image/only_in_the_image.py /opt/more/\nENV PYTHONPATH=/opt/more\n"


@pytest.fixture
def agent(project, container_engine):
    """A project whose tools need a module that its Dockerfile puts into the image."""
    folder = project.folder
    (folder / "tools.py").write_text(TOOLS)
    (folder / "Dockerfile.loud").write_text(DOCKERFILE.format(image=IMAGE))
    (folder / "image").mkdir()
    (folder / "image" / "only_in_the_image.py").write_text("def loud(text):\n    return text.upper()\n")
    for model in ("student", "teacher"):
        project.edit_json(f"{model}/tokenizer_config.json", chat_template=TEMPLATE)
    project.rows(row("1+1=?", rewards=None, docker="local/loud"))
    return project


def test_the_schema_comes_from_the_image(agent):
    report = agent.check("sandbox.memory=256m")
    assert report.ok, report.findings
    notes = {finding.code: finding for finding in report.findings}
    assert "local/loud" in notes["RN243"].message
    assert "only_in_the_image" in notes["RN243"].message
    (info,) = report.project.tools
    assert (info.name, info.sandbox, list(info.parameters["properties"])) == ("shout", True, ["text"])


def test_a_tool_outside_of_the_sandbox_needs_the_module_here(agent):
    (agent.folder / "tools.py").write_text(TOOLS.replace("(sandbox=True)", ""))
    finding = agent.finding("sandbox.memory=256m")
    assert (finding.code, finding.severity) == ("RN234", "error")
    assert "`shout` is not sandboxed" in finding.message


def test_a_module_that_the_image_lacks_too_is_named(agent):
    (agent.folder / "tools.py").write_text(TOOLS.replace("only_in_the_image", "nowhere_at_all"))
    finding = agent.finding("sandbox.memory=256m")
    assert (finding.code, finding.line) == ("RN234", 1)
    assert "nowhere_at_all" in finding.message
