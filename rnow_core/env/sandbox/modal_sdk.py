"""The Python SDK of the service Modal: found, with credentials, its errors in this project's words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from rnow_core.env.sandbox.engine import EngineFailed
from rnow_core.errors import EnvironmentMissing, RnowError

APP = "rnow-sandboxes"
"""The app under which all sandboxes of this program are listed in an account."""

_VARIABLES = ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")
_FILE_VARIABLE = "MODAL_CONFIG_PATH"
_HINT = "run `modal token new`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"


def load_sdk() -> Any:
    """The module `modal`; EnvironmentMissing without it, or without credentials. Nothing is sent."""
    try:
        sdk = import_module("modal")
    except ImportError as error:
        message = f"sandbox.engine is modal, which needs the Python package `modal`: {error}"
        raise EnvironmentMissing(message, 'pip install "rnow-distill[modal]"') from error
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    file = Path(os.environ.get(_FILE_VARIABLE) or "~/.modal.toml").expanduser()
    if missing and not file.is_file():
        message = (
            f"sandbox.engine is modal, and {' and '.join(missing)} are not set and {file} does not exist"
        )
        raise EnvironmentMissing(message, _HINT)
    return sdk


@contextmanager
def modal_errors(sdk: Any, doing: str) -> Iterator[None]:
    """What the SDK raises while `doing`: EnvironmentMissing for the account, RnowError for what was asked for,
    EngineFailed for the rest.
    """
    errors = sdk.exception
    try:
        yield
    except (errors.AuthError, errors.PermissionDeniedError) as error:
        raise EnvironmentMissing(f"{doing}: Modal refuses the credentials: {error}", _HINT) from error
    except errors.ConflictError as error:
        raise EngineFailed(f"{doing} failed: {error}") from error
    except (errors.InvalidError, errors.ImageBuildError) as error:
        raise RnowError(f"{doing} failed: {error}", "Modal's dashboard has the build logs") from error
    except TimeoutError as error:
        raise EngineFailed(f"{doing} took too long") from error
    except (errors.Error, OSError) as error:
        raise EngineFailed(f"{doing} failed: {error}") from error
