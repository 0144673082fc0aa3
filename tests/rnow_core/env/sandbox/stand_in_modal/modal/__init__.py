"""A stand-in for the SDK of the service Modal: exactly what this project uses of it. Sandboxes are local processes, and
what the service would know is in the folder that STAND_IN_MODAL names, so that several processes see the same.

`modal_signatures.py` holds its signatures against the real SDK's.
"""

import asyncio
import contextlib
import functools
import json
import os
import secrets as randomness
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from modal import exception


class Both:
    """A function that blocks, with an `aio` beside it, as the SDK has them."""

    def __init__(self, function, owner=None):
        self._function, self._owner = function, owner
        functools.update_wrapper(self, function)

    def __get__(self, instance, owner):
        return self if instance is None else Both(self._function, instance)

    def _bound(self):
        return self._function if self._owner is None else functools.partial(self._function, self._owner)

    def __call__(self, *args, **kwargs):
        return self._bound()(*args, **kwargs)

    @property
    def aio(self):
        return functools.partial(asyncio.to_thread, self._bound())


class BothGenerators(Both):
    @property
    def aio(self):
        return self._each

    async def _each(self, *args, **kwargs):
        for item in await asyncio.to_thread(lambda: list(self(*args, **kwargs))):
            yield item


def store():
    return Path(os.environ["STAND_IN_MODAL"])


class App:
    def __init__(self, app_id):
        self.app_id = app_id

    @Both
    @staticmethod
    def lookup(name, *, create_if_missing=False):
        if os.environ["MODAL_TOKEN_ID"] == "refused":
            raise exception.AuthError("Token ID is invalid")
        assert create_if_missing
        return App(f"ap-{name}")


class Secret:
    def __init__(self, values):
        self.values = values

    @staticmethod
    def from_dict(env_dict):
        return Secret(env_dict)


class Image:
    def __init__(self, made_of=None, object_id=None):
        self._made_of, self.object_id = made_of or {}, object_id

    @staticmethod
    def from_registry(tag):
        return Image({"tag": tag})

    @staticmethod
    def from_dockerfile(path, *, context_dir=None):
        return Image({"dockerfile": str(path), "context": str(context_dir)})

    @Both
    @staticmethod
    def from_id(image_id):
        assert (store() / image_id).is_dir()
        return Image(object_id=image_id)

    def entrypoint(self, entrypoint_commands):
        return Image({**self._made_of, "entrypoint": entrypoint_commands})

    @Both
    def build(self, app=None):
        if self._made_of.get("tag", "").startswith("missing"):
            raise exception.ImageBuildError("no such image", "im-0")
        self.object_id = f"im-{randomness.token_hex(4)}"
        if "context" in self._made_of:
            shutil.copytree(self._made_of["context"], store() / self.object_id)
        else:
            (store() / self.object_id).mkdir()
        return self


class StreamWriter:
    def __init__(self, pipe):
        self._pipe, self._buffer, self._ended = pipe, b"", False

    def write(self, data):
        if len(self._buffer) + len(data) > 2 * 1024 * 1024:
            raise BufferError("Buffer size exceed limit. Call drain to flush the buffer.")
        self._buffer += data

    def write_eof(self):
        self._ended = True

    @Both
    def drain(self):
        self._pipe.write(self._buffer)
        self._pipe.flush()
        self._buffer = b""
        if self._ended:
            self._pipe.close()


class StreamReader:
    def __init__(self, pipe):
        self._pipe = pipe

    def __iter__(self):
        while chunk := self._pipe.read1(65536):
            yield chunk

    async def __aiter__(self):
        while chunk := await asyncio.to_thread(self._pipe.read1, 65536):
            yield chunk


class ContainerProcess:
    def __init__(self, process):
        self._process = process
        self.stdin = StreamWriter(process.stdin)
        self.stdout, self.stderr = StreamReader(process.stdout), StreamReader(process.stderr)

    @Both
    def wait(self):
        code = self._process.wait()
        return 128 - code if code < 0 else code


class Sandbox:
    def __init__(self, object_id):
        self.object_id = object_id
        self._folder = store() / object_id

    @Both
    @staticmethod
    def create(
        *args,
        app=None,
        tags=None,
        image=None,
        secrets=None,
        timeout=300,
        cpu=None,
        memory=None,
        block_network=False,
    ):
        sandbox = Sandbox(f"sb-{randomness.token_hex(4)}")
        shutil.copytree(store() / image.object_id, sandbox._folder / "home")
        env = {name: value for secret in secrets for name, value in secret.values.items()}
        asked = {"cpu": cpu, "memory": memory, "block_network": block_network, "timeout": timeout}
        about = {"app_id": app.app_id, "tags": tags, "env": env, "asked": asked}
        (sandbox._folder / "about.json").write_text(json.dumps(about))
        sandbox._start(args, {})
        return sandbox

    @Both
    @staticmethod
    def from_id(sandbox_id):
        if not (store() / sandbox_id).is_dir():
            raise exception.NotFoundError(f"no sandbox {sandbox_id}")
        return Sandbox(sandbox_id)

    @BothGenerators
    @staticmethod
    def list(*, app_id=None, tags=None):
        for folder in sorted(store().glob("sb-*")):
            about = json.loads((folder / "about.json").read_text())
            ended = (folder / "ended").exists()
            if not ended and about["app_id"] == app_id and about["tags"].items() >= tags.items():
                yield Sandbox(folder.name)

    @Both
    def get_tags(self):
        return json.loads((self._folder / "about.json").read_text())["tags"]

    @Both
    def exec(self, *args, env=None, text=True):
        assert text is False
        if (self._folder / "ended").exists():
            raise exception.NotFoundError("the sandbox has ended")
        return ContainerProcess(self._start(args, env or {}))

    @Both
    def terminate(self):
        (self._folder / "ended").touch()
        for line in (self._folder / "processes").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(line), signal.SIGKILL)

    def _start(self, args, env):
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        own = json.loads((self._folder / "about.json").read_text())["env"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            args,
            cwd=self._folder / "home",
            env={"PATH": path, **own, **env},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        with (self._folder / "processes").open("a") as file:
            file.write(f"{process.pid}\n")
        return process
