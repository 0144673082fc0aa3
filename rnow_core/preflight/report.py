"""What a preflight found, and what it read on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rnow_core.config.load import LoadedConfig
from rnow_core.data.conversations import Conversations
from rnow_core.data.renderer import Renderer
from rnow_core.env.define import RewardInfo
from rnow_core.env.tool_types import ToolInfo
from rnow_core.errors import Finding, FindingsError
from rnow_core.types import Prompt

T = TypeVar("T")


@dataclass(frozen=True)
class Project:
    """A project that was read without an error: what a run is built from. `conversations` renders the rows of `sft`.

    `teacher_windows`: tokens of the longest sequence that each teacher with a context will score.
    """

    folder: Path
    loaded: LoadedConfig
    prompts: Sequence[Prompt]
    eval_prompts: Sequence[Prompt]
    renderer: Renderer
    context_window: int
    rewards: Mapping[str, RewardInfo]
    tools: Sequence[ToolInfo] = ()
    conversations: Conversations | None = None
    teacher_windows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All findings, errors first; the plan of the run; and the project when nothing is wrong.

    A finding's file is relative to the project's folder where it lies inside. A config with `stages` has the reports
    of its stages by name instead of a project, and their plans below `stages` in its own; `continued` names those
    that start from what the one before leaves behind.
    """

    findings: list[Finding]
    plan: dict[str, Any]
    project: Project | None
    stages: Mapping[str, Report] = field(default_factory=dict)
    continued: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """True when no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)


@dataclass
class Findings:
    """Collects findings; `attempt` turns a raised FindingsError into entries and goes on."""

    loaded: LoadedConfig
    items: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Keep a finding; one that names only a config key gets the key's place in config.yml."""
        self.items.append(self._placed(finding))

    def extend(self, findings: Iterable[Finding]) -> None:
        """Keep several findings."""
        for finding in findings:
            self.add(finding)

    def attempt(self, work: Callable[[], T]) -> T | None:
        """The result of `work`, or None after keeping what it had to say against it."""
        try:
            return work()
        except FindingsError as error:
            self.extend(error.findings)
            return None

    def _placed(self, finding: Finding) -> Finding:
        if finding.file is not None or finding.path is None:
            return finding
        file, line, col = self.loaded.locate(finding.path)
        return replace(finding, file=file, line=line, col=col)


SEVERITIES = ("error", "warning", "info")


def presented(findings: Iterable[Finding], project_dir: Path) -> list[Finding]:
    """Each finding once, errors first, files as paths inside the project."""
    unique = dict.fromkeys(_inside(finding, project_dir) for finding in findings)
    return sorted(unique, key=lambda finding: SEVERITIES.index(finding.severity))


def _inside(finding: Finding, project_dir: Path) -> Finding:
    if finding.file is None or not Path(finding.file).is_relative_to(project_dir):
        return finding
    return replace(finding, file=Path(finding.file).relative_to(project_dir).as_posix())
