"""Reads the prompts that a teacher is to answer: a text file with one a line, or JSON lines with metadata."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from rnow_core.data.messages import check_messages
from rnow_core.data.row_issues import Code, RowIssues
from rnow_core.errors import Finding, FindingsError
from rnow_core.types import Message, Prompt

OWN_METADATA = ("teacher", "turns")
"""What generation adds to the metadata of a row."""

NOT_BEST: Final = "not-best"
"""The reason of rejected rows that stand beside the one row of their prompt."""

EXAMPLE = '{"prompt": "...", "metadata": {"expected_answer": "..."}}'


@dataclass(frozen=True, slots=True)
class SourcePrompt:
    """A prompt and its name: a hash of messages and metadata, then which of several equal prompts it is."""

    id: str
    prompt: Prompt


def load_source(path: Path, *, system: str | None = None, limit: int | None = None) -> list[SourcePrompt]:
    """The prompts of a file, in order; at most `limit`.

    A line of a `.jsonl` file has `prompt` (text) or `messages`, and may have `metadata`, `system`, `tools` (names),
    `rewards` (names), `docker`, `docker_env`, `variables`. A line of any other file is a prompt. `system` is the system
    prompt of rows without their own. Raises FindingsError with every bad line.
    """
    found: list[SourcePrompt] = []
    findings: list[Finding] = []
    seen: Counter[str] = Counter()
    for number, line in _lines(path):
        if limit is not None and len(found) >= limit:
            break
        issues = RowIssues(str(path), number)
        row = _row(issues, line) if path.suffix == ".jsonl" else {"prompt": line}
        prompt = _prompt(issues, row, len(found), system)
        findings += issues.findings
        if prompt is not None:
            digest = content_hash(prompt.messages, prompt.metadata)
            seen[digest] += 1
            found.append(SourcePrompt(f"{digest}.{seen[digest]}", prompt))
    if not found and not findings:
        hint = f"a prompt a line, or in a .jsonl file: {EXAMPLE}"
        findings.append(Finding(Code.NO_ROWS.value, "error", "the file has no prompts", hint, str(path)))
    if findings:
        raise FindingsError(findings)
    return found


def content_hash(messages: Sequence[Message], metadata: Mapping[str, Any]) -> str:
    """What makes two prompts equal, as 24 hexadecimal digits."""
    kept = {key: value for key, value in metadata.items() if key not in OWN_METADATA}
    text = json.dumps([list(messages), kept], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:24]


def user_texts(path: Path) -> list[str]:
    """What the user says in each row of a file, in order: a `.txt` file of prompts, or JSON lines with `messages` or
    `prompt`. FindingsError with every bad line.
    """
    found: list[str] = []
    findings: list[Finding] = []
    for number, line in _lines(path):
        issues = RowIssues(str(path), number)
        row = _row(issues, line) if path.suffix == ".jsonl" else {"prompt": line}
        messages = row.get("messages", [{"role": "user", "content": row.get("prompt", "")}])
        if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
            found.append(user_text(messages))
        else:
            issues.wrong_type("messages", messages, "a list of messages")
        findings += issues.findings
    if findings:
        raise FindingsError(findings)
    return found


def user_text(messages: Sequence[Message]) -> str:
    """All that the user says in a conversation."""
    contents = [message.get("content") for message in messages if message.get("role") == "user"]
    return "\n".join(map(_plain_text, contents))


def _plain_text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def message_keys(path: Path) -> set[str]:
    """The `content_hash` of the messages of each row of an output file, answers included."""
    return {content_hash(messages, {}) for messages, _ in _answers(path)}


def answered(paths: Sequence[Path], prompts: Sequence[SourcePrompt]) -> set[str]:
    """The ids of prompts that rows of these files answer, for files that came without a journal.

    A row answers the first prompt with its messages and metadata that no other row answers; where there is none,
    the first with its messages.
    """
    lengths = sorted({len(item.prompt.messages) for item in prompts})
    exact, loose = _queues(prompts, with_metadata=True), _queues(prompts, with_metadata=False)
    found: set[str] = set()
    others: list[list[Any]] = []
    for path in paths:
        for messages, metadata in _answers(path):
            name = _take(exact, (content_hash(messages[:n], metadata) for n in lengths), found)
            if name is None:
                others.append(messages)
    for messages in others:
        _take(loose, (content_hash(messages[:n], {}) for n in lengths), found)
    return found


def _queues(prompts: Sequence[SourcePrompt], *, with_metadata: bool) -> dict[str, deque[str]]:
    """Hash -> the ids of the prompts that have it, in order."""
    queues: dict[str, deque[str]] = {}
    for item in prompts:
        metadata = item.prompt.metadata if with_metadata else {}
        queues.setdefault(content_hash(item.prompt.messages, metadata), deque()).append(item.id)
    return queues


def _take(queues: Mapping[str, deque[str]], hashes: Iterable[str], found: set[str]) -> str | None:
    """The first id under one of the hashes that was not found before; it is found now."""
    for digest in hashes:
        queue = queues.get(digest, deque())
        while queue:
            name = queue.popleft()
            if name not in found:
                found.add(name)
                return name
    return None


def _answers(path: Path) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """(messages, metadata) of the rows of an output file; FindingsError for a line that is none."""
    for number, line in _lines(path) if path.exists() else ():
        issues = RowIssues(str(path), number)
        row = _row(issues, line)
        if row.get("reason") == NOT_BEST:
            continue
        messages, metadata = row.get("messages", []), row.get("metadata", {})
        if not isinstance(messages, list) or not isinstance(metadata, dict):
            issues.wrong_type("messages", messages, "a row that was generated", "move the file away")
        if issues.findings:
            raise FindingsError(issues.findings)
        yield messages, metadata


def with_text_arguments(message: Message) -> Message:
    """The message with the arguments of its calls as JSON text, as servers and the output format have them."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        given = function.get("arguments")
        text = given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False)
        calls.append({**call, "function": {**function, "arguments": text}})
    return {**message, "tool_calls": calls}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that are not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError as error:
        finding = Finding(Code.ENCODING.value, "error", f"not UTF-8: {error}", "save it as UTF-8", str(path))
        raise FindingsError([finding]) from error
    except OSError as error:
        finding = Finding(
            Code.FILE.value,
            "error",
            f"the file cannot be read: {error.strerror}",
            "name a file with a prompt a line, or a .jsonl file",
            str(path),
        )
        raise FindingsError([finding]) from error


def _row(issues: RowIssues, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        issues.add(Code.JSON, None, f"not valid JSON: {error}", f"one JSON object a line: {EXAMPLE}")
        return {}
    if "\\u" in line and not _has_utf8(row):
        issues.add(
            Code.ENCODING, None, "an escape such as \\ud800 is half of a character", "escape both halves"
        )
    if isinstance(row, str):
        return {"prompt": row}
    if not isinstance(row, dict):
        issues.add(Code.NOT_OBJECT, None, "the line is no JSON object", EXAMPLE)
        return {}
    return {key: value for key, value in row.items() if value is not None}


def _has_utf8(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _prompt(issues: RowIssues, row: Mapping[str, Any], index: int, system: str | None) -> Prompt | None:
    """None when something is wrong, which `issues` then says."""
    for key, kind, expected in _KEYS:
        if key in row and not isinstance(row[key], kind):
            issues.wrong_type(key, row[key], expected)
    for key in ("tools", "rewards"):
        names = row.get(key)
        if isinstance(names, list) and not all(isinstance(name, str) for name in names):
            issues.wrong_type(key, names, "a list of names")
    names = row.get("tools")
    if issues.findings:
        return None
    messages = _messages(issues, row, row.get("system", system))
    if issues.findings:
        return None
    return Prompt(
        index=index,
        messages=messages,
        file=issues.file,
        line=issues.line or 0,
        rewards=tuple(row.get("rewards", ())),
        tools=None if names is None else tuple(names),
        docker=row.get("docker"),
        docker_env=row.get("docker_env", {}),
        metadata=row.get("metadata", {}),
        variables=row.get("variables", {}),
    )


_KEYS: tuple[tuple[str, type, str], ...] = (
    ("prompt", str, "text"),
    ("system", str, "text"),
    ("metadata", dict, "an object"),
    ("variables", dict, "an object"),
    ("docker_env", dict, "an object"),
    ("docker", str, "the name of an image"),
    ("tools", list, "a list of names"),
    ("rewards", list, "a list of names"),
)


def _messages(issues: RowIssues, row: Mapping[str, Any], system: str | None) -> tuple[Message, ...]:
    if "messages" in row and "prompt" not in row:
        messages = tuple(map(with_text_arguments, check_messages(issues, row["messages"], "distill")))
    elif str(row.get("prompt", "")).strip():
        messages = ({"role": "user", "content": row["prompt"]},)
    else:
        issues.add(Code.MISSING, "prompt", "is missing or empty", EXAMPLE)
        return ()
    if not system or any(message.get("role") == "system" for message in messages):
        return messages
    return ({"role": "system", "content": system}, *messages)
