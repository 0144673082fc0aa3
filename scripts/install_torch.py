"""Install the torch that fits this machine: the CUDA build where there is an NVIDIA GPU, else the CPU build.

On Linux the default torch wheel brings several gigabytes of CUDA packages. So without a GPU we first ask pip what
the default index would install; only if that is a CUDA build do we turn to PyTorch's own index of CPU builds.
Usage: python scripts/install_torch.py VERSION
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def pip(*arguments: str) -> None:
    """Run pip of this interpreter; a failure ends the script with pip's exit code."""
    code = subprocess.call(
        [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    )
    if code:
        sys.exit(code)


def has_gpu() -> bool:
    """True when the NVIDIA driver lists at least one device."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def default_brings_cuda(requirement: str) -> bool:
    """True when the configured index would install CUDA packages for this requirement."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("--quiet", "--dry-run", "--report", str(report), requirement)
        items = json.loads(report.read_text())["install"]
    names = {item["metadata"]["name"].lower() for item in items}
    return any(name.startswith(("nvidia-", "cuda-", "triton")) for name in names)


def main() -> None:
    """Install torch unless the wanted version is there already."""
    version = sys.argv[1]
    try:
        if metadata.version("torch").split("+")[0] == version:
            return
    except metadata.PackageNotFoundError:
        pass
    requirement = f"torch=={version}"
    if not has_gpu() and default_brings_cuda(requirement):
        pip("--quiet", "--index-url", CPU_INDEX, requirement)
    else:
        pip("--quiet", requirement)


if __name__ == "__main__":
    main()
