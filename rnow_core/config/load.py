"""config.yml, older spellings, overrides, schema and rules in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.config.availability import unavailable
from rnow_core.config.check import check
from rnow_core.config.overrides import Change, apply_overrides, changes
from rnow_core.config.problems import KeyPath, Problem, dotted, show
from rnow_core.config.schema import Config
from rnow_core.config.source import COMMAND_LINE, Location, Source
from rnow_core.config.spellings import translate
from rnow_core.config.yaml_file import Fault, YamlFile, parse
from rnow_core.errors import Finding, FindingsError, Severity

ORDER = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A valid config, what there is to say about it, and where its keys stand."""

    config: Config
    path: Path
    findings: tuple[Finding, ...]
    """Warnings and notes; errors were raised."""
    changes: tuple[Change, ...]
    """What the overrides did, to be echoed."""
    source: Source

    @property
    def root(self) -> Path:
        """The folder that relative paths in the config start from."""
        return self.path.parent

    def locate(self, path: str | KeyPath) -> Location:
        """File, line and column of a key (`teacher.path`), or of its nearest parent that is written."""
        return self.source.locate(_key_path(path))

    def finding(
        self, code: str, path: str | KeyPath, message: str, hint: str = "", severity: Severity = "error"
    ) -> Finding:
        """A finding of another check about a key of this config, with its place in the file."""
        return self.source.finding(Problem(code, _key_path(path), message, hint, severity))

    def unavailable(self) -> list[Finding]:
        """An error for each configured feature that this version does not have yet."""
        return [self.source.finding(problem) for problem in unavailable(self.config)]


def _key_path(path: str | KeyPath) -> KeyPath:
    if isinstance(path, tuple):
        return path
    parts = path.replace("[", ".").replace("]", "").split(".")
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read and check config.yml. Raises FindingsError with everything wrong at once, errors first."""
    parsed = parse(_read(path))
    data = _root_mapping(str(path), parsed)
    today = translate(data)
    changed = apply_overrides(today.data, overrides)
    checked = check(changed.data, path.parent)
    source = Source(str(path), changed.data, parsed.places, today.moved, frozenset(changed.paths))
    in_file = Source(str(path), data, parsed.places)
    findings = [_fault(str(path), fault) for fault in parsed.faults]
    findings += [in_file.finding(problem) for problem in today.problems]
    findings += [_about_override(problem) for problem in changed.problems]
    findings += [source.finding(problem) for problem in checked.problems]
    findings.sort(key=_reading_order)
    if checked.config is None or any(finding.severity == "error" for finding in findings):
        raise FindingsError(findings)
    echo = changes(changed.paths, today.data, changed.data)
    return LoadedConfig(checked.config, path, tuple(findings), tuple(echo), source)


def _read(path: Path) -> str:
    """The text of the file; a missing, unreadable or binary one is a finding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        message, hint = (
            "there is no such file",
            "run `rnow init` to make a project, or name the folder that has one",
        )
    except UnicodeDecodeError as error:
        message, hint = f"not a text file: byte {error.start} is not UTF-8", "save it as UTF-8"
    except OSError as error:
        message, hint = f"cannot be read: {error.strerror}", "name a file that you may read"
    raise FindingsError([Finding("RN100", "error", message, hint, str(path))])


def _root_mapping(file: str, parsed: YamlFile) -> dict[str, Any]:
    """The data of the file; an empty file is an empty mapping."""
    if isinstance(parsed.data, dict):
        return parsed.data
    if parsed.data is None and not parsed.faults:
        return {}
    kind = Finding("RN103", "error", f"expected keys with values, got {show(parsed.data)}", "", file, 1, 1)
    raise FindingsError([_fault(file, fault) for fault in parsed.faults] or [kind])


def _fault(file: str, fault: Fault) -> Finding:
    path = dotted(fault.path) or None
    return Finding(fault.code, "error", fault.message, fault.hint, file, fault.line, fault.col, path)


def _about_override(problem: Problem) -> Finding:
    path = dotted(problem.path) or None
    return Finding(problem.code, problem.severity, problem.message, problem.hint, COMMAND_LINE, path=path)


def _reading_order(finding: Finding) -> tuple[int, int, int]:
    return ORDER[finding.severity], finding.line or 0, finding.col or 0
