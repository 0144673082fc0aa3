"""A real container engine for tests: docker where its daemon answers, else podman with settings that work in most
places as root. Tests that need it carry the mark `container`.

A plugin of the whole suite (tests/conftest.py), so that all its packages share the engine and its test images.
"""

import asyncio
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from offline_image import import_images

from rnow_core.env.sandbox.engine import find_engine

PODMAN_ARGS = (
    "--storage-driver {driver} --root {root} --runroot {root}/run --cgroup-manager cgroupfs --runtime runc"
)
PODMAN_RUN_ARGS = "--ulimit nofile=1024:1024 --ulimit nproc=4096:4096"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """One worker of xdist has all of them: the engine's storage is shared. Before xdist reads the groups."""
    for item in items:
        if item.get_closest_marker("container"):
            item.add_marker(pytest.mark.xdist_group("container"))


def _answers(*command):
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def _podman_settings():
    """Storage of our own, in memory-free overlay where the kernel allows it: nothing of the user's is touched."""
    root = Path("/var/tmp" if Path("/var/tmp").is_dir() else "/tmp", f"rnow-test-podman-{os.getuid()}")
    for driver in ("overlay", "vfs"):
        words = PODMAN_ARGS.format(driver=driver, root=root / driver)
        if _answers("podman", *shlex.split(words), "info"):
            return words
    return None


@pytest.fixture(scope="session")
def engine_settings(tmp_path_factory):
    """Environment variables under which `find_engine` finds a working engine that has the test images."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("RNOW_SANDBOX_")}
    name = "docker"
    if not _answers("docker", *shlex.split(settings.get("RNOW_SANDBOX_ARGS", "")), "info"):
        name = "podman"
        words = _podman_settings() if "RNOW_SANDBOX_ARGS" not in settings else settings["RNOW_SANDBOX_ARGS"]
        if words is None or not shutil.which("podman"):
            pytest.skip("no container engine: make system-deps installs podman")
        settings = {"RNOW_SANDBOX_RUN_ARGS": PODMAN_RUN_ARGS, **settings, "RNOW_SANDBOX_ARGS": words}
    command = [name, *shlex.split(settings.get("RNOW_SANDBOX_ARGS", ""))]
    import_images(command, tmp_path_factory.mktemp("images"))
    return settings


@pytest.fixture
def container_engine(engine_settings, monkeypatch):
    """A container program that has the test images; what is started from here finds it, too."""
    for name, value in engine_settings.items():
        monkeypatch.setenv(name, value)
    return asyncio.run(find_engine())
