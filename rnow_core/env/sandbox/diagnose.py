"""What `rnow doctor` says about sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.env.sandbox.bubblewrap import bubblewrap_words
from rnow_core.env.sandbox.cleanup import list_sandboxes
from rnow_core.env.sandbox.containers import most
from rnow_core.env.sandbox.engine import Engine, find_engine
from rnow_core.env.sandbox.modal_sdk import load_sdk
from rnow_core.errors import RnowError

_TRY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `ok` is None where it is worth a warning, no more."""

    name: Literal["containers", "limits", "leftovers", "bubblewrap"]
    ok: bool | None
    message: str
    hint: str = ""


async def diagnose(config: SandboxConfig) -> list[Check]:
    """Look at the container engine and at bubblewrap; never raises for what is missing."""
    return [*await _containers(config), await _bubblewrap()]


async def _containers(config: SandboxConfig) -> list[Check]:
    try:
        if config.engine == "modal":
            load_sdk()
            return [
                Check("containers", True, "Modal: its package and credentials are there; they were not tried")
            ]
        engine = await find_engine(config.engine)
        rows = await list_sandboxes(engine)
    except RnowError as error:
        return [Check("containers", False, error.message, error.hint)]
    message = f"{engine.name} {_version(engine)}; {most(config)} containers of {config.memory} at once"
    checks = [Check("containers", True, message), _limits(engine)]
    if orphans := [row.name for row in rows if row.orphan]:
        said = f"{len(orphans)} containers of runs that have ended: {', '.join(orphans[:3])}"
        checks.append(
            Check("leftovers", None, said, "the next run removes them; `rnow sandbox gc` does it now")
        )
    return checks


def _version(engine: Engine) -> str:
    version: Mapping[str, Any] = engine.info.get("version") or {}
    return str(engine.info.get("ServerVersion") or version.get("Version") or "of unknown version")


def _limits(engine: Engine) -> Check:
    """Whether the engine can bound memory, CPUs and processes: a rootless one may lack the control groups."""
    if engine.name == "docker":
        missing = [
            name for name in ("MemoryLimit", "CpuCfsQuota", "PidsLimit") if engine.info.get(name) is False
        ]
    else:
        have = (engine.info.get("host") or {}).get("cgroupControllers") or []
        missing = [name for name in ("memory", "cpu", "pids") if name not in have]
    if not missing:
        return Check("limits", True, "memory, CPUs and processes are bounded")
    hint = "let systemd delegate the controllers to your user, or run the engine as a system service"
    return Check("limits", False, f"{engine.name} cannot limit: {', '.join(missing)}", hint)


async def _bubblewrap() -> Check:
    try:
        words = bubblewrap_words(1 << 20)
    except RnowError as error:
        return Check("bubblewrap", None, error.message, error.hint)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, "/bin/true", stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(_TRY_SECONDS):
            _, err = await process.communicate()
    except TimeoutError:
        process.kill()
        err = b"it did not end"
    if process.returncode == 0:
        return Check("bubblewrap", True, "sandboxed tools can run without an image")
    hint = "the kernel must allow user namespaces (sysctl kernel.unprivileged_userns_clone, AppArmor)"
    return Check(
        "bubblewrap", None, f"bubblewrap does not work here: {err.decode(errors='replace').strip()}", hint
    )
