"""Are the packages that local models need installed? Standard library only, so that it can be asked first."""

from __future__ import annotations

from importlib.util import find_spec

from rnow_core.errors import EnvironmentMissing

PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy")
QUANTIZATION = ("bitsandbytes", "accelerate")


def require_training_packages() -> None:
    """Raise EnvironmentMissing, with the command that helps, when a package for local models is missing.

    Call it before importing anything else of rnow_core.models that computes.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise EnvironmentMissing(
            f"local models need {', '.join(missing)}, not installed here",
            'pip install "rnow-distill[train]"',
        )


def require_quantization_packages() -> None:
    """Raise EnvironmentMissing, with the command that helps, when a package for weights in 4 bits is missing."""
    missing = [name for name in QUANTIZATION if find_spec(name) is None]
    if missing:
        raise EnvironmentMissing(
            f"quantization: nf4 needs {', '.join(missing)}, not installed here",
            'pip install "rnow-distill[qlora]"',
        )
