"""Sandboxes at Modal, against a stand-in for its SDK (stand_in_modal/): never against the service."""

import asyncio
import importlib
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import modal_signatures
import pytest
from sandbox_project import Project, call, until

import rnow_core
from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox import hosted as hosted_module
from rnow_core.env.sandbox.dispatch import RowSandboxes, require_containers
from rnow_core.env.sandbox.hosted import collect_hosted_garbage, list_hosted, start_hosted
from rnow_core.env.sandbox.owner import this_process
from rnow_core.errors import EnvironmentMissing, RnowError

STAND_IN = Path(__file__).parent / "stand_in_modal"
IMAGE = "python:3.12-slim"
TOOLS = """
import os, subprocess, sys, time

@tool(sandbox=True)
def variable(name: str) -> str:
    "An environment variable."
    return os.environ.get(name, "-")

@tool(sandbox=True)
def note(text: str) -> str:
    "Write it down, and read what was written."
    print("noting", text, file=sys.stderr)
    open("notes", "a").write(text)
    return open("notes").read()

@tool(sandbox=True)
def read(name: str) -> str:
    "A file, or the names of all."
    return open(name).read() if name else " ".join(sorted(os.listdir(".")))

@tool(sandbox=True)
def repeat(text: str, times: int) -> str:
    "A lot of text."
    return text * times

@tool(sandbox=True)
def hang() -> str:
    "Never ends, and leaves a process behind."
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    open("child", "w").write(str(child.pid))
    time.sleep(600)
"""


@pytest.fixture
def modal(tmp_path, monkeypatch):
    """The folder in which the stand-in keeps what the service would know."""
    store = tmp_path / "modal"
    store.mkdir()
    for name, value in (("ID", "ak-1"), ("SECRET", "as-1")):
        monkeypatch.setenv(f"MODAL_TOKEN_{name}", value)
    monkeypatch.setenv("STAND_IN_MODAL", str(store))
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "no.toml"))
    here = Path(rnow_core.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{STAND_IN}:{here}")
    monkeypatch.syspath_prepend(str(STAND_IN))
    yield store
    for name in [name for name in sys.modules if name.partition(".")[0] == "modal"]:
        del sys.modules[name]


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "project")


@asynccontextmanager
async def hosted(project, **config):
    settings = SandboxConfig(**({"engine": "modal", "memory": "512m", "max_containers": 1} | config))
    async with RowSandboxes(settings, project.folder, run="a run/1", log=project.log) as sandboxes:
        yield sandboxes


def _runs(pid):
    """Whether a process of the stand-in runs; one that has ended may wait for process 1 to ask."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False
    ).stdout
    return state.strip()[:1] not in ("", "Z")


def abouts(store):
    return [json.loads(path.read_text()) for path in sorted(store.glob("sb-*/about.json"))]


def test_a_tool_runs_there_with_its_variables_and_nothing_is_left(project, modal, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "private")

    async def scenario():
        async with hosted(project, cpus=2) as sandboxes:
            spec = project.spec(TOOLS, image=IMAGE, env={"WORD": "two words"}, secrets={"KEY": "s3cret"})
            sandbox = await sandboxes.open(spec)
            words = [
                (await call(sandbox, "variable", name=name)).text for name in ("WORD", "KEY", "HF_TOKEN")
            ]
            notes = [(await call(sandbox, "note", text=text)).text for text in "ab"]
            rows = await list_hosted()
            long = await call(sandbox, "repeat", text="long ", times=100_000)
            await sandbox.close()
        return words, notes, rows, long, await list_hosted()

    words, notes, rows, long, left = asyncio.run(scenario())
    assert words == ["two words", "s3cret", "-"]
    assert notes == ["a", "ab"]
    assert [(row.run, row.orphan) for row in rows] == [("a-run-1", False)] * len(rows) != []
    assert long.text == "long " * 100_000
    assert left == []
    assert "noting a" in project.log.read_text()
    asked = {"cpu": [2.0, 2.0], "memory": [512, 512], "block_network": True, "timeout": 6 * 3600}
    assert all(about["asked"] == asked for about in abouts(modal))


@pytest.mark.parametrize(("network", "open_row", "blocked"), [("auto", True, False), ("none", True, True)])
def test_the_network_is_open_only_where_row_and_config_say_so(project, modal, network, open_row, blocked):
    async def scenario():
        async with hosted(project, network=network) as sandboxes:
            await sandboxes.open(project.spec(TOOLS, image=IMAGE, network=open_row))

    asyncio.run(scenario())
    assert {about["asked"]["block_network"] for about in abouts(modal)} == {blocked}


def test_a_call_that_hangs_is_ended_inside_and_the_sandbox_stays(project, modal):
    async def scenario():
        async with hosted(project, scope="run") as sandboxes:
            sandbox = await sandboxes.open(project.spec(TOOLS, image=IMAGE))
            await call(sandbox, "note", text="kept ")
            late = await call(sandbox, "hang", timeout=3.0)
            child = (await call(sandbox, "read", name="child")).text
            return late, _runs(child), await call(sandbox, "note", text="after")

    late, child_runs, after = asyncio.run(scenario())
    assert late.kind == "timeout"
    assert not child_runs
    assert after.text == "kept after"


def test_a_sandbox_in_which_a_runner_cannot_be_ended_goes_with_it(project, modal, monkeypatch):
    monkeypatch.setattr(hosted_module, "_END_PROCESSES", "raise SystemExit(1)")

    async def scenario():
        async with hosted(project, scope="run") as sandboxes:
            sandbox = await sandboxes.open(project.spec(TOOLS, image=IMAGE))
            await call(sandbox, "note", text="lost ")
            await call(sandbox, "hang", timeout=2.0)
            return await call(sandbox, "note", text="fresh")

    assert asyncio.run(scenario()).text == "fresh"


def test_a_sandbox_that_modal_ended_is_replaced(project, modal):
    async def scenario():
        async with hosted(project, scope="run") as sandboxes:
            sandbox = await sandboxes.open(project.spec(TOOLS, image=IMAGE))
            await call(sandbox, "note", text="lost ")
            await collect_hosted_garbage(everything=True)
            died = await call(sandbox, "note", text="x")
            return died, await call(sandbox, "note", text="fresh")

    died, fresh = asyncio.run(scenario())
    assert died.kind in ("died", "ok")
    assert fresh.text in ("fresh", "xfresh")
    assert len(abouts(modal)) == 2


def test_an_image_is_built_from_what_its_dockerfile_copies_and_runs_what_that_says(project, modal):
    project.write("secret.txt", "not for the image")
    project.write(".env", "TOKEN=private")
    project.write("data.txt", "copied")
    project.write(
        "serve.py", "import pathlib, time; time.sleep(0.5); pathlib.Path('ready').write_text('served')"
    )
    project.write(
        "Dockerfile.Shop",
        """
        FROM python:3.12-slim
        COPY data.txt serve.py ./
        ENTRYPOINT ["python3"]
        CMD ["serve.py"]
        HEALTHCHECK --interval=5s CMD test -f ready
        """,
    )

    async def scenario():
        async with hosted(project) as sandboxes:
            sandbox = await sandboxes.open(project.spec(TOOLS, image="local/Shop"))
            names = ("", "data.txt", "ready")
            return [(await call(sandbox, "read", name=name)).text for name in names]

    names, data, ready = asyncio.run(scenario())
    assert names.split() == ["data.txt", "ready", "serve.py"]
    assert (data, ready) == ("copied", "served")


@pytest.mark.parametrize(
    ("image", "said"),
    [("missing:1", "preparing the image missing:1 at Modal failed"), ("local/None", "needs Dockerfile.None")],
)
def test_an_image_that_cannot_be_had_is_named(project, modal, image, said):
    async def scenario():
        async with hosted(project) as sandboxes:
            await sandboxes.build([IMAGE, image])

    with pytest.raises(RnowError, match=said):
        asyncio.run(scenario())


def test_what_is_missing_is_named_with_its_fix(project, modal, monkeypatch):
    config = SandboxConfig(engine="modal")
    asyncio.run(require_containers(config))
    monkeypatch.setenv("MODAL_TOKEN_ID", "refused")
    with pytest.raises(EnvironmentMissing, match="Token ID is invalid"):
        asyncio.run(start_hosted(config, project.folder, run="r"))
    monkeypatch.delenv("MODAL_TOKEN_ID")
    with pytest.raises(EnvironmentMissing, match="MODAL_TOKEN_ID are not set"):
        asyncio.run(require_containers(config))
    monkeypatch.setitem(sys.modules, "modal", None)
    with pytest.raises(EnvironmentMissing) as caught:
        asyncio.run(require_containers(config))
    assert caught.value.hint == 'pip install "rnow-distill[modal]"'


def test_the_next_start_ends_what_a_process_that_is_gone_left_behind(project, modal):
    async def scenario():
        async with hosted(project) as sandboxes:
            await sandboxes.open(project.spec(TOOLS, image=IMAGE))
            await until(lambda: _count(1))
            [file] = modal.glob("sb-*/about.json")
            about = json.loads(file.read_text())
            for change in ({"rnow-machine": "another"}, {"rnow-started": b"earlier".hex()}):
                file.write_text(json.dumps({**about, "tags": {**about["tags"], **change}}))
                await start_hosted(SandboxConfig(engine="modal"), project.folder, run="next")
                yield len(await list_hosted())

    async def everything():
        return [count async for count in scenario()]

    assert this_process().gone is False
    assert asyncio.run(everything()) == [1, 0]


async def _count(number):
    return len(await list_hosted()) == number


def test_the_stand_in_has_the_signatures_of_the_real_sdk(modal):
    """modal_signatures.json is made by hand from the real one: see modal_signatures.py."""
    stand_in = importlib.import_module("modal")
    real = json.loads(Path(modal_signatures.__file__).with_suffix(".json").read_text())
    ours = modal_signatures.described(vars(stand_in), stand_in.exception)
    assert ours["functions"].keys() == real["functions"].keys()
    for name, function in ours["functions"].items():
        assert function["aio"] == real["functions"][name]["aio"], name
        assert function["parameters"].items() <= real["functions"][name]["parameters"].items(), name
    for name, ancestors in ours["errors"].items():
        assert [base for base in real["errors"][name] if base in ancestors] == ancestors, name
