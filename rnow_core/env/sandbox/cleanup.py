"""Containers that nobody owns any more: found by their labels, removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rnow_core.env.sandbox.engine import Engine
from rnow_core.env.sandbox.labels import MARK, OWNER, RUN
from rnow_core.env.sandbox.owner import Owner, this_process

_LABEL_SET = ("ps", "--all", "--quiet", "--no-trunc")


@dataclass(frozen=True, slots=True)
class SandboxRow:
    """A container of ours. `created`: as the engine writes it; `orphan`: the process that owned it has ended."""

    name: str
    image: str
    run: str
    state: str
    created: str
    orphan: bool


async def list_sandboxes(engine: Engine) -> list[SandboxRow]:
    """Every container of ours, those of other processes included, by name."""
    rows = []
    for found in await _labelled(engine, MARK):
        config = found.get("Config") or {}
        marks = config.get("Labels") or {}
        owner = Owner.parse(marks.get(OWNER, ""))
        state = str((found.get("State") or {}).get("Status", ""))
        # docker writes names with a slash in front.
        name, image = (
            str(found.get("Name", "")).lstrip("/"),
            str(found.get("ImageName") or config.get("Image", "")),
        )
        orphan = owner is not None and owner.gone
        rows.append(SandboxRow(name, image, marks.get(RUN, ""), state, str(found.get("Created", "")), orphan))
    return sorted(rows, key=lambda row: row.name)


async def collect_garbage(engine: Engine, *, everything: bool = False) -> list[str]:
    """Remove the containers whose owner has ended; with `everything` those of living processes too. Their names."""
    names = [row.name for row in await list_sandboxes(engine) if row.orphan or everything]
    await engine.remove(*names)
    return names


async def remove_own(engine: Engine, run: str) -> None:
    """Remove every container that this process started for a run."""
    marks = (f"{OWNER}={this_process().label}", f"{RUN}={run}")
    filters = [word for mark in marks for word in ("--filter", f"label={mark}")]
    found = await engine.require(*_LABEL_SET, *filters)
    await engine.remove(*found.split())


async def _labelled(engine: Engine, label: str) -> list[dict[str, Any]]:
    ids = (await engine.require(*_LABEL_SET, "--filter", f"label={label}")).split()
    return await engine.inspect(*ids) if ids else []
