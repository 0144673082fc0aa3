"""Fixtures of the on-distill-agent template: its modules, and stand-in servers for its tool."""

import importlib.util
import threading

import pytest
from stand_in_crawl4ai import StandIn

from rnow.assets import asset_root
from rnow_core.env.runner import toolkit

TEMPLATE = asset_root() / "templates" / "on-distill-agent"


@pytest.fixture
def tools(monkeypatch):
    """The template's tools.py as a module, without traces in the list of this process's tools."""
    monkeypatch.setattr(toolkit, "TOOLS", [])
    for name in ("CRAWL4AI_API_TOKEN", "RNOW_BROWSE_RECORD", "RNOW_BROWSE_REPLAY"):
        monkeypatch.delenv(name, raising=False)
    module = load_module("tools")
    monkeypatch.setattr(module, "TOKEN_FILE", TEMPLATE / "no-such-file")
    monkeypatch.setattr(module, "START_UP", 0.0)
    return module


@pytest.fixture
def serve(monkeypatch):
    """Start a stand-in server in a thread of its own and point the tool to it."""
    servers = []

    def start(**options):
        server = StandIn(**options)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("CRAWL4AI_URL", server.url)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def load_module(name):
    spec = importlib.util.spec_from_file_location(f"on_distill_agent_{name}", TEMPLATE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def convert(monkeypatch, tmp_path):
    """The template's convert_dataset.py, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return load_module("convert_dataset")
