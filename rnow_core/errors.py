"""Every error that rnow raises on purpose.

    RnowError                 exit 1   anything a user can act on; message + hint, never a traceback
    ├── FindingsError         exit 1   the project or config has problems, all listed
    ├── RunFailed             exit 1   a run stopped by itself (self-check, lost rollouts, full disk)
    ├── RolloutFailed                  one rollout could not be completed: dropped and counted, the run goes on
    ├── UsageError            exit 2   the command was called wrongly
    ├── EnvironmentMissing    exit 3   an extra, a GPU, a key or a program is not there
    ├── WouldOverwrite        exit 4   something is in the way and --force was not given
    └── Interrupted           exit 130 the user stopped the run

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `validate` has to say, with where it is and how to fix it.

    Lines and columns count from 1. `code` is stable (`RN101`, ...); `path` is the key path inside the file
    (`algorithm.loss_fn`, `messages[1].role`).
    """

    code: str
    severity: Severity
    message: str
    hint: str = ""
    file: str | None = None
    line: int | None = None
    col: int | None = None
    path: str | None = None

    def where(self) -> str:
        """`config.yml:3:5`, or an empty string when the finding has no place."""
        parts = [str(part) for part in (self.file, self.line, self.col) if part is not None]
        return ":".join(parts)

    def __str__(self) -> str:
        place = f"{self.where()}: " if self.file else ""
        path = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{path}{self.message}{hint}"

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON-ready data; every key is always there."""
        return asdict(self)


class RnowError(Exception):
    """An error with a message for the user and, where there is one, the fix."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class FindingsError(RnowError):
    """One or more findings of severity error."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = list(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class RunFailed(RnowError):
    """A run stopped by itself; what was saved before is still there."""


class RolloutFailed(RnowError):
    """One rollout could not be completed: it is dropped and counted, the run goes on."""


class UsageError(RnowError):
    """The command line was used wrongly."""

    exit_code = 2


class EnvironmentMissing(RnowError):
    """Something outside the project is missing: an extra, a GPU, a program, a key."""

    exit_code = 3


class WouldOverwrite(RnowError):
    """Something is in the way and nothing was written."""

    exit_code = 4


class Interrupted(RnowError):
    """The user stopped the run; the checkpoint that was written is named in the message."""

    exit_code = 130
