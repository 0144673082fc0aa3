"""What the containers of a run are started with: the words of `run`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox.engine import Engine
from rnow_core.env.sandbox.images import Image
from rnow_core.env.sandbox.labels import MARK, OWNER, RUN
from rnow_core.env.sandbox.owner import this_process
from rnow_core.errors import RnowError

_KEEP_ALIVE = (Path(__file__).parent / "inside" / "keep_alive.py").read_text()
_MUST_BE_FIRST = {"init", "systemd", "catatonit"}
_TEMPORARY = ("/tmp", "/run", "/var/tmp")
_UNITS = {"k": 10, "m": 20, "g": 30}
_CLIENT_PREFIXES = (
    "DOCKER_",
    "CONTAINER",
    "BUILDKIT_",
    "BUILDAH_",
    "LD_",
    "XDG_",
    "SSL_",
    "REGISTRY_",
    "STORAGE_",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One kind of container: what differs between two of them is only the name."""

    image: Image
    config: SandboxConfig
    env: Mapping[str, str]
    secrets: Mapping[str, str]
    network: bool
    run: str

    @property
    def values(self) -> dict[str, str]:
        """Variables of the container that go through the environment of the engine's client."""
        return {
            **{name: value for name, value in self.env.items() if not _client_reads(name)},
            **self.secrets,
        }

    def words(self, engine: Engine, name: str) -> list[str]:
        """The arguments of the engine that start a container of this name in the background."""
        image, config = self.image, self.config
        memory = str(memory_bytes(config.memory))
        words = ["run", "--detach", "--pull=never", "--name", name, "--hostname", "sandbox"]
        words += [*labels("container", self.run), *hardening(), "--no-healthcheck"]
        words += ["--memory", memory, "--memory-swap", memory, "--cpus", f"{config.cpus:g}"]
        words += ["--pids-limit", str(config.pids), "--shm-size", str(int(memory) // 2)]
        words += _log_words(engine) + self._read_only_words(int(memory)) + self._environment_words()
        words += [] if self.network else ["--network", "none"]
        words += engine.run_words
        if image.command and Path(image.command[0]).name in _MUST_BE_FIRST:
            return [*words, image.id]
        return [*words, "--entrypoint", image.python, image.id, "-I", "-S", "-c", _KEEP_ALIVE, *image.command]

    def _read_only_words(self, memory: int) -> list[str]:
        if not self.image.read_only:
            return []
        paths = (*_TEMPORARY, *self.image.tmpfs)
        mounts = [("--tmpfs", f"{path}:rw,mode=1777,size={memory // 2}") for path in paths]
        return ["--read-only", *(word for mount in mounts for word in mount)]

    def _environment_words(self) -> list[str]:
        for name in (*self.env, *self.secrets):
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise RnowError(
                    f"`{name}` cannot be the name of an environment variable", "use letters, digits, _"
                )
        if taken := [name for name in self.secrets if _client_reads(name)]:
            message = f"the secret {taken[0]} has a name that the container program reads itself"
            raise RnowError(message, "store it under another name, such as MY_" + taken[0])
        words = [("--env", name) for name in self.values]
        # These would change what the client itself does; a row's docker_env is no secret.
        words += [("--env", f"{name}={value}") for name, value in self.env.items() if name not in self.values]
        return [word for pair in words for word in pair]


def hardening() -> list[str]:
    """No capabilities, and no way to win any."""
    return ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]


def labels(what: str, run: str) -> list[str]:
    """What a container is, of which run, and of which process."""
    pairs = (f"{MARK}={what}", f"{RUN}={run}", f"{OWNER}={this_process().label}")
    return [word for pair in pairs for word in ("--label", pair)]


def memory_bytes(text: str) -> int:
    """`2g` -> 2147483648."""
    return int(text[:-1]) << _UNITS[text[-1]]


def _client_reads(name: str) -> bool:
    return name in os.environ or name.startswith(_CLIENT_PREFIXES) or name.upper().endswith("_PROXY")


def _log_words(engine: Engine) -> list[str]:
    """A log of bounded size; and podman's habit of handing on the host's proxies is switched off."""
    if engine.name == "podman":
        return ["--log-driver", "k8s-file", "--log-opt", "max-size=10mb", "--http-proxy=false"]
    return ["--log-driver", "json-file", "--log-opt", "max-size=10m", "--log-opt", "max-file=1"]
