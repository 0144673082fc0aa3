"""The off-distill template: what it renders to, what its script says, and what its tool opens."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
import stand_in_crawl4ai_package
from off_distill import SKILL, TEMPLATE, load_module, make_project, web_site

from rnow.guard import guarded
from rnow.origin import requirement
from rnow.skills import load_skill
from rnow_core.config.load import load_config
from rnow_core.data.prompt_file import load_source
from rnow_core.env.runner import toolkit
from rnow_core.env.tool_pool import inspect_tools

CONFIG = """\
project_name: "Distilled Agent"
dataset_type: sft  # No rewards needed

data:
  train_file: train.jsonl
  batch_size: 4

model:
  path: Qwen/Qwen3-8B
  qlora_rank: 32

trainer:
  num_epochs: 3
  learning_rate: 0.00005
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("off") / "agent", template="off-distill-agent")


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.setattr(toolkit, "TOOLS", [])
    return load_module("tools")


def test_the_config_is_the_document_s(project, tmp_path):
    assert (project / "config.yml").read_text() == CONFIG
    config = load_config(project / "config.yml").config
    assert (config.dataset_type, config.trainer.learning_rate, config.teacher) == ("sft", 5e-5, [])
    named = make_project(tmp_path / "b", "student=./s", name="Mine")
    text = (named / "config.yml").read_text()
    assert ('project_name: "Mine"' in text, "path: ./s" in text) == (True, True)


def test_claude_md_repeats_the_skill_and_lists_what_is_there(project):
    text = (project / "CLAUDE.md").read_text()
    skill = load_skill(SKILL)
    assert skill.section("Setup") in text
    assert skill.section("Quick start") in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = [part.strip(" `") for row in rows for part in row.split("|")[1].split(",")]
    assert len(named) >= 8
    assert [name for name in named if name != "runs/" and not (project / name).exists()] == []


def test_prompts_have_answers_that_they_do_not_give_away(project):
    prompts = [item.prompt for item in load_source(project / "prompts.jsonl")]
    assert len(prompts) >= load_config(project / "config.yml").config.data.batch_size
    for prompt in prompts:
        assert prompt.metadata["expected_answer"].lower() not in prompt.messages[0]["content"].lower()


def test_keys_and_journals_stay_out_of_git(project):
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    names = [
        ".env",
        "train.jsonl.journal",
        "train.jsonl.tools.log",
        "runs/a",
        ".train.jsonl.lock",
        "train.jsonl",
        ".env.example",
    ]
    command = ["git", "-c", "core.excludesFile=", "check-ignore", *names]
    said = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert said.stdout.split() == names[:5]


def test_requirements_name_where_this_rnow_is_from(project, monkeypatch):
    lines = (project / "requirements.txt").read_text().splitlines()
    assert requirement("train") in lines
    assert any(line.startswith("crawl4ai") for line in lines)
    told = {"url": "https://a.example/rnow", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    for direct, expected in (
        (None, "rnow-distill[train]"),
        (json.dumps(told), "rnow-distill[train] @ git+https://a.example/rnow@abc"),
        (json.dumps({"url": "file:///a b", "dir_info": {}}), "rnow-distill[train] @ file:///a b"),
    ):
        installed = type("Installed", (), {"read_text": lambda _, name, direct=direct: direct})
        monkeypatch.setattr("rnow.origin.distribution", lambda _, installed=installed: installed())
        assert requirement("train") == expected


# ---- the script ---------------------------------------------------------------------------------------------------


def script(project, *arguments, name="generate_distillation_data.py", python=(), path=""):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *python, name, *arguments],
        cwd=project,
        env={**environment, **({"PYTHONPATH": path} if path else {})},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", ["generate_distillation_data.py", "generate_teacher_data.py"])
def test_without_rnow_it_names_the_one_command(project, name):
    done = script(project, "prompts.jsonl", name=name, python=["-S"])  # -S: an environment without packages
    assert done.returncode == 3
    assert "uv pip install -r requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_browser_nothing_is_asked_of_the_teacher(project, tmp_path):
    packages = stand_in_crawl4ai_package.install(tmp_path / "packages")
    (packages / "playwright").mkdir()
    (packages / "playwright" / "__init__.py").touch()
    (packages / "playwright" / "sync_api.py").write_text(
        "from contextlib import nullcontext\nfrom types import SimpleNamespace as N\n"
        "sync_playwright = lambda: nullcontext(N(chromium=N(executable_path='/nowhere/chrome')))\n"
    )
    done = script(project, "prompts.jsonl", path=str(packages))
    assert done.returncode == 3
    assert "crawl4ai-setup" in done.stderr
    assert "playwright install chromium" in done.stderr
    done = script(project, "none.txt", "-t", "none", "--key-env", "none", path=str(packages))
    assert (done.returncode, "cannot be read" in done.stderr) == (1, True), "rnow's own exit code and words"
    assert sorted(path.name for path in project.glob("*train*")) == []


def test_validate_names_the_command_that_makes_train_jsonl(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert guarded(["validate"]) == 1
    said = capsys.readouterr().out
    assert "train.jsonl: error[RN201] the file does not exist" in said
    assert "rnow generate prompts.jsonl --output train.jsonl" in said


# ---- the tool -----------------------------------------------------------------------------------------------------


def test_the_tool_loads_without_crawl4ai(tools, monkeypatch):
    (browse,) = inspect_tools(TEMPLATE)
    assert (browse.name, browse.sandbox, browse.parameters["required"]) == ("browse", False, ["url"])
    assert browse.timeout > tools.PATIENCE, "it can still say why there is no page"
    monkeypatch.setitem(sys.modules, "crawl4ai", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(tools.SetupError) as error:
        tools.browse("https://a.example")
    for said in (tools.missing(), str(error.value)):
        for word in ("uv pip install crawl4ai", "crawl4ai-setup", "playwright install chromium"):
            assert word in said


@pytest.fixture
def package(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(stand_in_crawl4ai_package.install(tmp_path / "packages")))
    yield
    sys.modules.pop("crawl4ai", None)


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "raw:<p>text</p>",
        "view-source:https://a.example/",
        "what is aspirin?",
        "http://127.0.0.1:8000/",
        "http://localhost/",
        "http://user@169.254.169.254/latest/meta-data/",
        "http://10.1.2.3/",
        "http://[::1]/",
        "http://[::ffff:192.168.0.1]/",
        "http://0x7f000001/",
    ],
)
def test_nothing_but_public_pages_is_opened(address, tools, package, monkeypatch):
    monkeypatch.setattr(tools, "crawled", lambda address: pytest.fail(f"{address} was opened"))
    said = tools.browse(address)
    assert said.startswith("Error: ")
    assert "public" in said or "not the address of a web page" in said or "no host" in said


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("8.8.8.8", True), ("2606:4700::1111", True), ("64:ff9b::808:808", True), ("100.64.0.1", False)),
        *(("64:ff9b::a00:1", False), ("fe80::1%eth0", False), ("2002:a00:1::1", False), ("224.0.0.1", False)),
        *(("0.0.0.0", False), ("fd00::1", False), ("192.168.1.1", False), ("::ffff:127.0.0.1", False)),
    ],
)
def test_which_addresses_are_public(address, public, tools):
    assert tools.is_public(address) == public


def test_a_redirect_to_a_private_address_ends_at_the_proxy(tools, package, monkeypatch):
    monkeypatch.setattr(tools, "is_public", lambda address: address == "127.0.0.1")
    with web_site({"/": "<p>secret</p>"}, "127.0.0.2") as (inside, asked_inside):
        pages = {
            "/": "<h1>Trial</h1><p>Amiva\u200bstat</p>",
            "/away": inside + "/",
            "/long": "line of text\n" * 3000,
        }
        with web_site(pages) as (outside, asked):
            assert tools.browse(outside + "/#part") == "TrialAmivastat"
            away = tools.browse(outside + "/away")
            long = tools.browse(outside + "/long")
    assert asked == ["/", "/away", "/long"]
    assert asked_inside == []
    assert "is not on the public internet" in away
    assert len(long) < tools.MAX_CHARACTERS + 100
    assert "more characters of this page are not shown]" in long


def test_what_the_browser_says_becomes_a_line_for_the_model(tools):
    gone = tools.failure("Page.goto: net::ERR_NAME_NOT_RESOLVED at https://a\nCall log: ...")
    assert isinstance(gone, tools.PageError)
    assert "net::ERR_NAME_NOT_RESOLVED" in str(gone)
    assert len(str(gone).splitlines()) == 1
    absent = tools.failure("BrowserType.launch: Executable doesn't exist at /x/chrome")
    assert isinstance(absent, tools.SetupError)
    assert "crawl4ai-setup" in str(absent)


def test_a_page_that_does_not_end_is_given_up(tools, package, monkeypatch):
    async def endless(address):
        await asyncio.sleep(60)

    monkeypatch.setattr(tools, "ALLOW_PRIVATE", True)
    monkeypatch.setattr(tools, "crawled", endless)
    monkeypatch.setattr(tools, "PATIENCE", 0.05)
    assert "took too long" in tools.browse("https://a.example/")
