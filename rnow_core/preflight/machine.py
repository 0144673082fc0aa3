"""What this machine has for the run: Python packages, memory, disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from rnow_core.config.schema import Config
from rnow_core.errors import Finding

TRAINING = ("torch", "transformers", "peft", "safetensors", "numpy")
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
    return found


def _missing(names: list[str], extra: str, why: str, path: str | None = None) -> Finding:
    message = f"not installed: {', '.join(names)}; {why}"
    return Finding("RN401", "warning", message, f'pip install "rnow-distill[{extra}]"', path=path)


def available_memory() -> tuple[int, bool]:
    """Bytes of the first GPU if the driver shows one, else of the machine or container; and whether it is a GPU."""
    gpu = _gpu_memory()
    if gpu is not None:
        return gpu, True
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_container_limits()]), False


def _gpu_memory() -> int | None:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = answer.stdout.split("\n")[0].strip()
    return int(first) * 2**20 if answer.returncode == 0 and first.isdigit() else None


def _container_limits() -> list[int]:
    texts = [Path(file).read_text().strip() for file in CGROUP_LIMITS if Path(file).is_file()]
    return [int(text) for text in texts if text.isdigit()]


def free_disk(folder: Path) -> int:
    """Bytes that may still be written where `folder` is or will be."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free
