"""The plan of a run, as `validate` shows it to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rnow.display.lines import table

UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
IN_BYTES = ("memory", "disk")


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The plan of a run; of one in stages, that of each below its name."""
    if "stages" not in plan:
        return plan_table(plan)
    return [line for name, stage in plan["stages"].items() for line in (f"stage {name}:", *plan_table(stage))]


def plan_table(plan: Mapping[str, Any]) -> list[str]:
    """Key and value of everything in the plan; what is named `memory...` or `disk...` is in bytes."""
    shown = {key: _size(value) if key.startswith(IN_BYTES) else value for key, value in plan.items()}
    if "placement" in plan:
        shown["placement"] = "; ".join(_placement(plan["placement"]))
    return table({key: value for key, value in shown.items() if value != {}})


def _placement(placement: Mapping[str, Any]) -> list[str]:
    """Who works where, and why."""
    servers = [
        f"{verb} on GPU {_numbers(placement[role]['gpus'])}{_cut(placement[role])}"
        for role, verb in (("inference", "samples"), ("teacher", "teacher"))
        if placement[role]["gpus"]
    ]
    trainer = [f"trains on GPU {_numbers(placement['trainer'])}"] if placement["trainer"] else []
    ranks = [f"{placement['ranks']} training ranks"] if placement["ranks"] > 1 else []
    return [*servers, *trainer, *ranks, *placement["reasons"]]


def _numbers(gpus: Sequence[int]) -> str:
    return ",".join(map(str, gpus))


def _cut(role: Mapping[str, Any]) -> str:
    parts = [
        f"{name} parallel {role[key]}"
        for key, name in (("tensor", "tensor"), ("data", "data"))
        if role[key] > 1
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _size(value: Any) -> Any:
    """`1.50 GiB` for bytes, inside mappings too; in the largest unit that leaves at least 0.1 of it."""
    if isinstance(value, Mapping):
        return {key: _size(item) for key, item in value.items()}
    if not isinstance(value, int | float):
        return value
    unit, size = next((pair for pair in UNITS if value >= pair[1] / 10), UNITS[-1])
    return f"{value / size:.2f} {unit}"
