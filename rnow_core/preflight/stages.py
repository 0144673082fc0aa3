"""The checks of a run in stages: each stage by itself, before any of them runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rnow_core.config.load import LoadedConfig
from rnow_core.errors import Finding
from rnow_core.preflight.plan import disk_finding
from rnow_core.preflight.report import Report, presented

DISK = "RN411"


def check_stages(
    project_dir: Path,
    of_file: Iterable[Finding],
    stages: Mapping[str, LoadedConfig],
    check: Callable[[LoadedConfig], Report],
) -> Report:
    """Check every stage as it stands in the config: the adapter that a later one starts from does not exist yet.

    Args:
        project_dir: the project's folder.
        of_file: findings about config.yml, said once.
        stages: the config of each stage by its name.
        check: checks a config without stages.

    Returns:
        What holds in every stage is said once; the rest names its stage.
    """
    reports = {name: check(stage) for name, stage in stages.items()}
    counts = Counter(finding for report in reports.values() for finding in report.findings)
    found = [
        finding if counts[finding] == len(reports) else of_stage(finding, name)
        for name, report in reports.items()
        for finding in report.findings
        if finding.code != DISK
    ]
    plans = {name: report.plan for name, report in reports.items()}
    if plans and all(plans.values()):
        found += disk_finding(_disk_together(list(plans.values())), project_dir)
    known = [name for name, report in reports.items() if report.plan]
    plan: dict[str, Any] = {"stages": {name: plans[name] for name in known}} if known else {}
    return Report(presented([*of_file, *found], project_dir), plan, None, reports)


def of_stage(finding: Finding, name: str) -> Finding:
    """The finding with its stage in front of the message."""
    return replace(finding, message=f"stage {name}: {finding.message}")


def _disk_together(plans: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The checkpoints of all stages lie side by side."""
    return {
        "checkpoints": sum(plan["checkpoints"] for plan in plans),
        "disk": {
            "checkpoint": max(plan["disk"]["checkpoint"] for plan in plans),
            "total": sum(plan["disk"]["total"] for plan in plans),
        },
        "disk_available": min(plan["disk_available"] for plan in plans),
    }
