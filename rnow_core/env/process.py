"""How a worker process is started: command, environment, first line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from rnow_core.env.define import RewardInfo
from rnow_core.env.load import BROKEN, REWARDS_FILE
from rnow_core.errors import Finding, FindingsError

LOAD_SECONDS = 120.0
"""How long importing rewards.py may take."""

_KEPT = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "LANG", "TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HF_HOME", "PLAYWRIGHT_BROWSERS_PATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
}
_KEPT_PREFIXES = ("PYTHON", "LC_", "CONDA_", "XDG_", "SSL_CERT_", "OMP_", "MKL_", "COVERAGE_")
_TAIL_LINES = 15


def worker_command(project: Path, secret_names: Iterable[str]) -> list[str]:
    """The user's own Python; -P so that a file of the project cannot stand in for a module of the worker."""
    return [sys.executable, "-P", "-m", "rnow_core.env.worker_main", str(project), *secret_names]


def worker_environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """What programs need to run, and the named secrets; other variables (tokens, keys) stay outside."""
    kept = {
        name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    return {**kept, **secrets}


def require_rewards_file(project: Path) -> None:
    """FindingsError (RN231) when there is no rewards.py."""
    if not (project / REWARDS_FILE).is_file():
        hint = "add it with `@reward` functions, or remove `rewards` from the rows"
        message = "the rows name rewards, but the project has no rewards.py"
        raise FindingsError([Finding("RN231", "error", message, hint, REWARDS_FILE)])


def read_first_line(line: bytes, log_tail: str) -> dict[str, RewardInfo]:
    """The rewards that the worker found, by name. FindingsError when it could not load them."""
    if not line.endswith(b"\n"):
        message = "the process that imported it ended without a word"
        raise FindingsError([Finding(BROKEN, "error", message, log_tail, REWARDS_FILE)])
    told = json.loads(line)
    if "findings" in told:
        raise FindingsError(Finding(**finding) for finding in told["findings"])
    return {info["name"]: RewardInfo(**info) for info in told["rewards"]}


def too_slow() -> FindingsError:
    """Importing rewards.py did not end."""
    hint = "move slow work from the top of the file into the functions"
    message = f"importing it took longer than {LOAD_SECONDS:g} s"
    return FindingsError([Finding(BROKEN, "error", message, hint, REWARDS_FILE)])


def tail(text: bytes) -> str:
    """The last lines of a log."""
    return "\n".join(text.decode(errors="replace").splitlines()[-_TAIL_LINES:])
