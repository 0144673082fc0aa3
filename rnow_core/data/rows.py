"""Reads train.jsonl files into prompts. All files are checked to the end before an error is raised."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rnow_core.data.messages import check_messages
from rnow_core.data.row_issues import Code, RowIssues
from rnow_core.errors import Finding, FindingsError
from rnow_core.types import Prompt

_KNOWN = {field.name for field in fields(Prompt)} - {"index", "file", "line", "dataset", "extra"}


def load_prompts(
    paths: Sequence[Path], *, dataset_type: str, need_rewards: bool, root: Path | None = None
) -> list[Prompt]:
    """The rows of all files, in order. `paths` are as the user wrote them, relative to `root` if given.

    `dataset_type` (distill, rl, sft) decides how a row must end; with `need_rewards` every row names rewards.
    Raises FindingsError with every bad line of every file.
    """
    prompts: list[Prompt] = []
    findings: list[Finding] = []
    for dataset, path in enumerate(paths):
        name, count = path.as_posix(), 0
        for issues, row in _read(root / path if root else path, name, dataset_type):
            prompt = _prompt(issues, row, dataset_type, need_rewards)
            findings += issues.findings
            if prompt and issues.line:
                prompts.append(
                    Prompt(index=len(prompts), file=name, line=issues.line, dataset=dataset, **prompt)
                )
            count += 1
        if not count:
            hint = 'write one JSON object a line: {"messages": [{"role": "user", "content": "..."}]}'
            findings.append(Finding(Code.NO_ROWS.value, "error", "the file has no rows", hint, name))
    if findings:
        raise FindingsError(findings)
    return prompts


def _read(path: Path, name: str, dataset_type: str) -> Iterator[tuple[RowIssues, dict[str, Any] | None]]:
    """For each line that is not blank: its issues so far, and the JSON object or None."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1 and line.startswith(b"\xef\xbb\xbf"):
                    line = line[3:]
                if line.strip():
                    issues = RowIssues(name, number)
                    yield issues, _parse(issues, line)
                    if number == 1 and line.lstrip().startswith(b"["):
                        return
    except OSError as error:
        issues = RowIssues(name)
        reason = (
            "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        )
        hint = "data.train_file and data.val_file name the data files"
        if dataset_type == "sft":
            hint += f"; a teacher writes one: rnow generate prompts.jsonl --output {name}"
        issues.add(Code.FILE, None, f"the file {reason}", hint)
        yield issues, None


def _parse(issues: RowIssues, line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.rstrip().decode(), parse_constant=_refuse_constant)
        if b"\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte 0x{line[error.start]:02x}"
        issues.add(Code.ENCODING, None, message, "save the file as UTF-8", col=error.start + 1)
    except UnicodeEncodeError:
        issues.add(
            Code.ENCODING, None, "an escape such as \\ud800 is half of a character", "escape both halves"
        )
    except json.JSONDecodeError as error:
        issues.add(Code.JSON, None, f"not valid JSON: {error.msg}", "one JSON object a line", col=error.colno)
    except (ValueError, RecursionError) as error:
        issues.add(Code.JSON, None, f"not valid JSON: {error or 'nested too deeply'}")
    else:
        if isinstance(row, dict):
            return row
        kind = "list" if isinstance(row, list) else type(row).__name__
        issues.add(Code.NOT_OBJECT, None, f"the line is a JSON {kind}, expected an object", _ONE_A_LINE)
    return None


_ONE_A_LINE = "JSONL is one object a line, not one list around them"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _prompt(
    issues: RowIssues, row: dict[str, Any] | None, dataset_type: str, need_rewards: bool
) -> dict[str, Any] | None:
    """The fields of a Prompt that a row gives; null counts as absent. None when the row is not usable."""
    if row is None:
        return None
    given = {key: value for key, value in row.items() if value is not None or key not in _KNOWN}
    values: dict[str, Any] = {"extra": {key: row[key] for key in row if key not in _KNOWN}}
    if "messages" in given:
        values["messages"] = check_messages(issues, given["messages"], dataset_type)
    else:
        issues.add(Code.MISSING, "messages", "is missing", 'a row needs "messages"')
    for key in ("rewards", "tools"):
        if key in given:
            values[key] = _names(issues, key, given[key])
    for key in ("metadata", "variables", "docker_env"):
        if key in given:
            values[key] = _object(issues, key, given[key])
    for key in ("docker", "teacher", "env"):
        if key in given:
            values[key] = _name(issues, key, given[key])
    if "teacher_context" in given:
        values["teacher_context"] = _text(issues, "teacher_context", given["teacher_context"])
    _check_together(issues, values, need_rewards)
    return None if issues.findings else values


def _names(issues: RowIssues, path: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        issues.wrong_type(path, value, "a list of names")
        return ()
    return tuple(_name(issues, f"{path}[{i}]", item) for i, item in enumerate(value))


def _name(issues: RowIssues, path: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        issues.wrong_type(path, value, "a name")
        return ""
    return value


def _text(issues: RowIssues, path: str, value: Any) -> str:
    if not isinstance(value, str):
        issues.wrong_type(path, value, "a text", 'write "" for no context')
        return ""
    return value


def _object(issues: RowIssues, path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        issues.wrong_type(path, value, "an object")
        return {}
    if path == "docker_env":
        for key, item in value.items():
            if not isinstance(item, str):
                issues.wrong_type(f"{path}.{key}", item, "a string", f'write "{item}"')
    return value


def _check_together(issues: RowIssues, values: dict[str, Any], need_rewards: bool) -> None:
    if values.get("docker_env") and "docker" not in values:
        issues.add(
            Code.DOCKER_ENV, "docker_env", "is set, but the row has no docker", "add docker, or remove it"
        )
    if need_rewards and not values.get("rewards"):
        hint = 'name functions of rewards.py: "rewards": ["accuracy"]; or train without rewards (adv_tau 0)'
        issues.add(Code.NO_REWARDS, "rewards", "the row names no rewards, and this run trains on them", hint)
