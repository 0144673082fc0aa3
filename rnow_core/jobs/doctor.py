"""`rnow doctor`: what this machine has for rnow and for the project around a folder. Imports no torch itself."""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values
from huggingface_hub import constants

from rnow_core.config.load import load_config
from rnow_core.config.rollouts import SandboxConfig
from rnow_core.config.schema import Config
from rnow_core.env.sandbox.diagnose import Check, diagnose
from rnow_core.errors import FindingsError
from rnow_core.preflight.check import CONFIG_FILE
from rnow_core.preflight.machine import TRAINING, free_disk, gpu_memory, quantized_key

State = Literal["ok", "warning", "missing"]
PYTHON = (3, 11)
GIB = 2**30
LITTLE_DISK = 20 * GIB
"""A model of 8 billion parameters takes 16 GiB."""
ROWS_LOOKED_AT = 10_000
TORCH_SECONDS = 120.0
TOKEN_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SANDBOXED = re.compile(r"\bsandbox\s*=\s*True\b")
_ASK_TORCH = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """One thing that was looked at. `missing`: needed here and not there; `warning`: only some uses need it."""

    name: str
    state: State
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the project asks for: names of extras, of sandbox checks (`containers`, `bubblewrap`), of secrets."""

    extras: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    secrets: tuple[str, ...] = ()


def examine(start: Path) -> list[DoctorCheck]:
    """Every check, of the machine first. Never raises for what is missing."""
    project = find_project(start)
    config, described = _read_project(project) if project else (None, [])
    needs = project_needs(project, config) if project and config else Needs()
    sandbox = config.sandbox if config else SandboxConfig()
    variables = {**(dotenv_values(project / ".env") if project else {}), **os.environ}
    return [
        _python(),
        _training_packages(),
        *_gpus(),
        *(_extra(name, why, needs) for name, why in EXTRAS.items()),
        _disk(project or start),
        *(_placed(check, needs) for check in asyncio.run(diagnose(sandbox))),
        _token(variables),
        *(_secret(name, variables) for name in needs.secrets),
        *described,
    ]


def find_project(start: Path) -> Path | None:
    """The folder with config.yml: `start` or the nearest one above it."""
    here = start.resolve()
    return next((folder for folder in (here, *here.parents) if (folder / CONFIG_FILE).is_file()), None)


def project_needs(project: Path, config: Config) -> Needs:
    """What a project asks for in any of its stages, as far as its files tell without being run."""
    stages = config.stage_configs()
    extras = {
        "vllm": any(stage.rollout.engine == "vllm" and not stage.rollout.url for stage in stages),
        "wandb": any(stage.logging.wandb_project is not None for stage in stages),
        "mcp": any(stage.rollout.mcp_url for stage in stages),
        "qlora": any(quantized_key(stage) for stage in stages),
    }
    places = set()
    if _has_sandboxed(project):
        places.add("containers" if _rows_name_images(project, config) else "bubblewrap")
    wanted = frozenset(name for name, asked in extras.items() if asked)
    secrets = dict.fromkeys(name for stage in stages for name in stage.sandbox.secrets)
    return Needs(wanted, frozenset(places), tuple(secrets))


def _read_project(project: Path) -> tuple[Config | None, list[DoctorCheck]]:
    try:
        loaded = load_config(project / CONFIG_FILE)
    except FindingsError as error:
        first = error.findings[0]
        message = f"{project / CONFIG_FILE} has {len(error.findings)} error(s), the first: {first.message}"
        return None, [DoctorCheck("project", "warning", message, "rnow validate shows all of them")]
    message = f"{project}: config.yml can be read"
    return loaded.config, [DoctorCheck("project", "ok", message)]


def _has_sandboxed(project: Path) -> bool:
    files = (project / "tools.py", project / "rewards.py")
    return any(
        _SANDBOXED.search(file.read_text(encoding="utf-8", errors="replace"))
        for file in files
        if file.is_file()
    )


def _rows_name_images(project: Path, config: Config) -> bool:
    return any('"docker"' in line for line in _first_rows(project, config))


def _first_rows(project: Path, config: Config) -> Iterator[str]:
    for name in config.data.train_file:
        if (project / name).is_file():
            with (project / name).open(encoding="utf-8", errors="replace") as lines:
                yield from itertools.islice(lines, ROWS_LOOKED_AT)


def _python() -> DoctorCheck:
    message = f"Python {platform.python_version()} at {sys.executable}"
    if sys.version_info >= PYTHON:
        return DoctorCheck("python", "ok", message)
    return DoctorCheck("python", "missing", message, f"install Python {'.'.join(map(str, PYTHON))} or newer")


def _training_packages() -> DoctorCheck:
    absent = [name for name in TRAINING if find_spec(name) is None]
    if absent:
        message = f"not installed: {', '.join(absent)}; needed to run anything"
        return DoctorCheck("train", "missing", message, 'pip install "rnow-distill[train]"')
    versions = (f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    return DoctorCheck("train", "ok", ", ".join(versions))


def _gpus() -> list[DoctorCheck]:
    """The GPUs, and where there are some, whether the installed torch can use them."""
    memory = gpu_memory()
    if not memory:
        hint = ""
        if Path("/dev/nvidia0").exists():
            hint = "a GPU is here: put nvidia-smi on the PATH, and check CUDA_VISIBLE_DEVICES"
        return [DoctorCheck("gpu", "warning", "no NVIDIA GPU; on the CPU only tiny models are quick", hint)]
    sizes = ", ".join(f"{size / GIB:.0f} GiB" for size in memory)
    found = DoctorCheck("gpu", "ok", f"{len(memory)} GPU{'s' if len(memory) > 1 else ''}: {sizes}")
    return [found, _torch_sees(len(memory))] if find_spec("torch") else [found]


def _torch_sees(gpus: int) -> DoctorCheck:
    """Asked in a process of its own: importing torch takes seconds, and a broken one may end the process."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=TORCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return DoctorCheck("torch", "missing", f"torch did not answer within {TORCH_SECONDS:.0f} s")
    told = asked.stdout.strip()
    if asked.returncode == 0 and told.isdecimal() and int(told) >= gpus:
        return DoctorCheck("torch", "ok", f"torch can use {told}")
    reason = f"torch can use {told} of them" if asked.returncode == 0 else asked.stderr.strip()[-300:]
    hint = "install torch's CUDA build for this driver: pip install torch"
    return DoctorCheck("torch", "missing", reason, hint)


EXTRAS = {
    "vllm": "samples much faster on a GPU",
    "wandb": "logging.wandb_project",
    "mcp": "rollout.mcp_url",
    "qlora": "quantization: nf4",
}
"""Extras and what needs them."""
PACKAGES = {"qlora": "bitsandbytes"}
"""The package of an extra where it has another name."""


def _extra(name: str, why: str, needs: Needs) -> DoctorCheck:
    package = PACKAGES.get(name, name)
    if find_spec(package) is not None:
        return DoctorCheck(name, "ok", f"{package} {_version(package)}")
    state: State = "missing" if name in needs.extras else "warning"
    who = "this project needs it" if name in needs.extras else f"only for: {why}"
    return DoctorCheck(name, state, f"not installed; {who}", f'pip install "rnow-distill[{name}]"')


def _version(name: str) -> str:
    """The installed distribution's version; it may have another name than its package (builds for a CPU have)."""
    owners = metadata.packages_distributions().get(name, [])
    return metadata.version(owners[0]) if owners else "of unknown version"


def _disk(folder: Path) -> DoctorCheck:
    free = free_disk(folder / "runs")
    message = f"{free / GIB:.0f} GiB free for {folder.resolve() / 'runs'}"
    if free >= LITTLE_DISK:
        return DoctorCheck("disk", "ok", message)
    return DoctorCheck(
        "disk", "warning", message, f"models and checkpoints want {LITTLE_DISK // GIB} GiB and more"
    )


def _placed(check: Check, needs: Needs) -> DoctorCheck:
    """A sandbox check: what fails is only needed where the project uses it."""
    needed = check.name in needs.places or (check.name == "limits" and "containers" in needs.places)
    state: State = "ok" if check.ok else "missing" if needed and check.name != "leftovers" else "warning"
    return DoctorCheck(check.name, state, check.message, check.hint)


def _token(variables: Mapping[str, str | None]) -> DoctorCheck:
    """Whether there is a Hugging Face token, and where; never its value."""
    places = [name for name in TOKEN_NAMES if variables.get(name)]
    if Path(constants.HF_TOKEN_PATH).is_file():
        places.append(constants.HF_TOKEN_PATH)
    if places:
        return DoctorCheck("hf token", "ok", f"set: {places[0]}")
    hint = "export HF_TOKEN=..., or: hf auth login"
    return DoctorCheck("hf token", "warning", "none; only for gated and private models", hint)


def _secret(name: str, variables: Mapping[str, str | None]) -> DoctorCheck:
    if variables.get(name):
        return DoctorCheck("secret", "ok", f"{name} is set")
    message = f"sandbox.secrets names {name}, which is not set"
    return DoctorCheck("secret", "missing", message, f"export {name}, or write it into .env")
