"""Missing packages are named with the command that installs them."""

from __future__ import annotations

import importlib.util

import pytest

from rnow_core.errors import EnvironmentMissing
from rnow_core.models import extras


def test_nothing_missing_is_fine() -> None:
    extras.require_training_packages()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("torch", "peft") else real(name))
    with pytest.raises(EnvironmentMissing, match="need torch, peft, not installed") as caught:
        extras.require_training_packages()
    assert caught.value.hint == 'pip install "rnow-distill[train]"'
    assert caught.value.exit_code == 3
