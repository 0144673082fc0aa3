"""What this machine has for the run: Python packages, memory, disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from rnow_core.config.schema import Config
from rnow_core.errors import Finding
from rnow_core.models.extras import QUANTIZATION

TRAINING = ("torch", "transformers", "peft", "safetensors", "numpy")
MIB = 2**20
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much memory a container may use: cgroup v2 and v1."""


def check_packages(config: Config) -> list[Finding]:
    """RN401 (warning): packages that the run will import and that are not installed."""
    missing = [name for name in TRAINING if find_spec(name) is None]
    found = (
        [_missing(missing, "train", "checking works without them, `rnow run` does not")] if missing else []
    )
    if config.logging.wandb_project is not None and find_spec("wandb") is None:
        found.append(_missing(["wandb"], "wandb", "logging.wandb_project needs it", "logging.wandb_project"))
    if config.rollout.engine == "vllm" and not config.rollout.url and find_spec("vllm") is None:
        found.append(_missing(["vllm"], "vllm", "rollout.engine: vllm starts its servers", "rollout.engine"))
    quantized = quantized_key(config)
    absent = [name for name in QUANTIZATION if find_spec(name) is None]
    if quantized and absent:
        found.append(_missing(absent, "qlora", f"{quantized} needs it", quantized))
    return found


def quantized_key(config: Config) -> str | None:
    """The first key that asks for weights in 4 bits."""
    if config.model.quantization is not None:
        return "model.quantization"
    return "teacher.quantization" if any(teacher.quantization for teacher in config.teacher) else None


def _missing(names: list[str], extra: str, why: str, path: str | None = None) -> Finding:
    message = f"not installed: {', '.join(names)}; {why}"
    return Finding("RN401", "warning", message, f'pip install "rnow-distill[{extra}]"', path=path)


def gpu_memory() -> list[int]:
    """Bytes of each GPU that this process may use, in the order in which they are numbered; empty without one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[field.strip() for field in line.split(",")] for line in answer.stdout.splitlines()]
    known = [row for row in rows if len(row) == 3 and row[2].isdigit()] if answer.returncode == 0 else []
    if visible is None:
        return [int(row[2]) * MIB for row in known]
    named = [name.strip() for name in visible.split(",")]
    return [int(row[2]) * MIB for name in named for row in known if row[0] == name or row[1].startswith(name)]


def machine_memory() -> int:
    """Bytes of main memory that this machine or container has."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_container_limits()])


def _container_limits() -> list[int]:
    texts = [Path(file).read_text().strip() for file in CGROUP_LIMITS if Path(file).is_file()]
    return [int(text) for text in texts if text.isdigit()]


def free_disk(folder: Path) -> int:
    """Bytes that may still be written where `folder` is or will be."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free
