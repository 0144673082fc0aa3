"""Images: built once for what they contain, run as they are meant to, ready when they say so."""

import asyncio
import json

import pytest
from offline_image import IMAGE
from sandbox_project import call

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox import container
from rnow_core.env.sandbox.cleanup import list_sandboxes
from rnow_core.env.sandbox.engine import Engine, EngineFailed
from rnow_core.env.sandbox.images import Images, build
from rnow_core.env.sandbox.recipe import Recipe
from rnow_core.errors import RnowError

pytestmark = pytest.mark.container

SERVER = """
import http.server, os, sys, time

time.sleep(1.0)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"served by {os.getppid()} for {os.environ['WHO']}".encode())

http.server.HTTPServer(("127.0.0.1", 8123), Handler).serve_forever()
"""

FETCH = """
import urllib.request

@tool(sandbox=True)
def fetch(url: str) -> str:
    "Read a page."
    return urllib.request.urlopen(url, timeout=5).read().decode()

@tool(sandbox=True)
def write(path: str, megabytes: int) -> str:
    "Write a file."
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
    return "written"
"""


def opened(project, image, *calls, **parts):
    """The results of calls in a fresh sandbox of an image."""

    async def scenario():
        async with project.sandboxes(memory="128m") as sandboxes:
            sandbox = await sandboxes.open(project.spec(FETCH, image=image, **parts))
            return [await call(sandbox, name, **arguments) for name, arguments in calls]

    return asyncio.run(scenario())


def test_the_images_own_server_runs_and_is_waited_for(project):
    project.write("server.py", SERVER)
    project.write(
        "Dockerfile.web",
        f"""
        FROM {IMAGE}
        COPY server.py /srv/server.py
        HEALTHCHECK --interval=30s CMD python3 -c "import socket; socket.create_connection(('localhost', 8123))"
        ENTRYPOINT ["python3"]
        CMD ["/srv/server.py"]
        """,
    )
    [page] = opened(project, "local/web", ("fetch", {"url": "http://localhost:8123/"}), env={"WHO": "a tool"})
    assert page.text == "served by 1 for a tool"


def test_an_image_whose_command_ends_or_cannot_run_is_kept_alive(project):
    for command in ('["sh", "-c", "exit 3"]', '["/no/such/program"]', "[]"):
        project.write("Dockerfile.short", f"FROM {IMAGE}\nCMD {command}\n")
        [result] = opened(project, "local/short", ("write", {"path": "/tmp/file", "megabytes": 1}))
        assert result.text == "written"


def test_a_server_that_never_gets_ready_is_told_with_its_log(project, engine, monkeypatch):
    monkeypatch.setattr(container, "READY_SECONDS", 1.5)
    project.write(
        "Dockerfile.sick",
        f"""
        FROM {IMAGE}
        HEALTHCHECK CMD echo not yet; exit 1
        CMD ["sh", "-c", "echo cannot open the database; exit 3"]
        """,
    )
    with pytest.raises(EngineFailed) as failure:
        opened(project, "local/sick")
    for words in ("not yet", "cannot open the database", "ended with exit code 3"):
        assert words in failure.value.message
    assert asyncio.run(list_sandboxes(engine)) == []


def test_an_image_is_built_once_by_whoever_comes_first_and_again_when_a_file_changes(
    project, engine, monkeypatch
):
    builds = []
    original = Engine.call

    async def counting(self, *arguments, **options):
        builds.extend(arguments[:1] if arguments[0] == "build" else [])
        return await original(self, *arguments, **options)

    monkeypatch.setattr(Engine, "call", counting)
    project.write("page.txt", f"first {project.folder}")
    project.write("Dockerfile.once", f"FROM {IMAGE}\nCOPY page.txt /\nRUN date +%s%N > /built\n")

    async def scenario():
        ours = [Images(engine, project.folder).get("local/once") for _ in range(3)]
        first = {image.id for image in await asyncio.gather(*ours)}
        project.write("page.txt", f"second {project.folder}")
        second = await build(engine, project.folder, "local/once")
        return first, second["Id"]

    first, second = asyncio.run(scenario())
    assert len(first) == 1
    assert second not in first
    assert len(builds) == 2


def test_a_read_only_image_has_bounded_temporary_folders_and_nothing_else_to_write(project):
    labels = 'LABEL rnow.read-only="true" rnow.tmpfs="/cache"'
    project.write("Dockerfile.fixed", f"FROM {IMAGE}\nRUN mkdir /cache\n{labels}\n")
    results = opened(
        project,
        "local/fixed",
        *[
            ("write", {"path": path, "megabytes": 1})
            for path in ("/file", "/usr/file", "/cache/file", "/tmp/file")
        ],
        ("write", {"path": "/tmp/much", "megabytes": 500}),
    )
    assert [result.kind for result in results] == ["raised", "raised", "ok", "ok", "raised"]
    assert "Read-only file system" in results[0].text
    assert "No space left" in results[-1].text


@pytest.mark.parametrize(
    ("image", "dockerfile", "words"),
    [
        ("local/none", None, "needs Dockerfile.none"),
        ("local/../x", None, "needs Dockerfile"),
        ("local/bad", "RUN exit 7", "building Dockerfile.bad failed"),
        ("local/lost", "COPY missing.txt /", "copies `missing.txt`, which is not in the project"),
        ("local/leak", "COPY .env /", "copies `.env`, which is not in the project"),
        ("registry.invalid/x:1", None, "registry.invalid/x:1 cannot be pulled"),
        ("--privileged", None, "not the name of an image"),
    ],
)
def test_an_image_that_cannot_be_had_is_told(project, image, dockerfile, words):
    project.write(".env", "KEY=1")
    if dockerfile is not None:
        project.write(f"Dockerfile.{image.removeprefix('local/')}", f"FROM {IMAGE}\n{dockerfile}\n")
    with pytest.raises(RnowError) as failure:
        opened(project, image)
    assert words in failure.value.message
    assert failure.value.hint


def test_a_failed_image_is_tried_again(project):
    project.write("Dockerfile.later", f"FROM {IMAGE}\nCOPY page.txt /\n")
    with pytest.raises(RnowError):
        opened(project, "local/later")
    project.write("page.txt", "text")
    assert opened(project, "local/later", ("write", {"path": "/tmp/x", "megabytes": 1}))[0].ok


def test_values_of_secrets_are_on_no_command_line(project, engine):
    async def scenario():
        async with project.sandboxes() as sandboxes:
            return await sandboxes.images.get(IMAGE)

    image = asyncio.run(scenario())
    recipe = Recipe(image, SandboxConfig(), {"A": "open value"}, {"KEY": "s3cret"}, False, "run")
    assert "s3cret" not in json.dumps(recipe.words(engine, "name"))
    assert recipe.values == {"A": "open value", "KEY": "s3cret"}
    with pytest.raises(RnowError, match="PATH"):
        Recipe(image, SandboxConfig(), {}, {"PATH": "x"}, False, "run").words(engine, "name")
