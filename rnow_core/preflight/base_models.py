"""Does a student end its turns as the teacher does: end tokens of the files, marks of the chat templates.

A base model often ships a chat template that it was never trained on. Its files then name another end of text than
the template's end of turn. Distillation still descends the exact KL there, but the first steps go into the form of a
reply: turns that do not end, and tokens that the teacher finds nearly impossible.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rnow_core.data.renderer import Renderer
from rnow_core.errors import Finding, RnowError
from rnow_core.preflight.probe import render
from rnow_core.preflight.report import Report
from rnow_core.preflight.stages import of_stage

BASE_STUDENT, OTHER_MARKS = "RN318", "RN319"
EOS_FILES = ("config.json", "generation_config.json")
PAGE = 'docs/on-policy-distillation.md, "Base models"'
COLD_START = (
    "begin with SFT on replies of the teacher (`stages`: first sft, then distill, as in docs/config.md); without it "
    "expect replies that run to rollout.max_tokens. A student that knows this template already: add the id to "
    "eos_token_id in its generation_config.json"
)
CONVERSATION = (
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": "answer"},
    {"role": "user", "content": "question"},
)


def declared_ends(folder: Path) -> frozenset[int]:
    """The ids that config.json and generation_config.json in a model's folder call eos; broken files name none."""
    found: set[int] = set()
    for name in EOS_FILES:
        try:
            given = json.loads((folder / name).read_text(encoding="utf-8"))["eos_token_id"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.update(i for i in (given if isinstance(given, list) else [given]) if type(i) is int)
    return frozenset(found)


def check_student_end(
    student: Renderer, ends: Iterable[int], teacher_ends: Iterable[int], key: str
) -> list[Finding]:
    """RN318 (warning): the student's files end a text with other tokens than its chat template ends a reply.

    Args:
        student: its tokenizer and template.
        ends: what `declared_ends` says of the student; without any the tokenizer's eos counts.
        teacher_ends: the same of the teacher.
        key: the config key that names the student.
    """
    end = student.end_of_turn_id
    own = sorted(ends) or [i for i in (student.eos_id,) if i is not None]
    if end is None or not own or end in own:
        return []
    teacher = ", as the teacher does" if end in set(teacher_ends) else ""
    message = (
        f"the student's files end a text with {_names(student, own)}, and its chat template ends a reply with "
        f"{_names(student, [end])}{teacher}: the mark of a base model, which never learned to end a turn"
    )
    return [Finding(BASE_STUDENT, "warning", message, COLD_START, path=key)]


def check_marks(student: Renderer, teacher: Renderer, options: Mapping[str, Any], key: str) -> list[Finding]:
    """RN319: the two chat templates mark turns with other tokens (warning), or write other text (info).

    A teacher without a template of its own has nothing to compare.
    """
    mine, other = (_conversation(renderer, options) for renderer in (student, teacher))
    if not mine or not other or mine == other:
        return []
    used, expected = (_marks(student, text) for text in (mine, other))
    hint = f"to let the student read and write the teacher's form, give it that template: {PAGE}"
    if used != expected:
        message = (
            f"the student's chat template marks turns with {_names(student, used)}, and the teacher's own with "
            f"{_names(student, expected)}: the teacher scores conversations in a form that it was not trained on"
        )
        return [Finding(OTHER_MARKS, "warning", message, hint, path=key)]
    place = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), len(mine))
    start = max(0, place - 20)
    message = (
        f"the teacher's own chat template writes a conversation in another way: {other[start : place + 40]!r} where "
        f"the student's, which the teacher reads, has {mine[start : place + 40]!r}"
    )
    return [Finding(OTHER_MARKS, "info", message, hint, path=key)]


def template_hint(key: str) -> str:
    """The fix for a model without a chat template; `key` names it."""
    return (
        "take the instruction-tuned variant; or give a base model the teacher's template: put it into the model's "
        f"folder as chat_template.jinja, name the folder as {key}, and begin with sft ({PAGE})"
    )


def without_base_warning(findings: Iterable[Finding]) -> list[Finding]:
    """The findings without RN318: the student does not start from its files alone, but from what was trained."""
    return [finding for finding in findings if finding.code != BASE_STUDENT]


def after_training(report: Report) -> Report:
    """A report on stages without RN318 for those that go on from another one."""
    told = {
        of_stage(finding, name)
        for name in report.continued
        for finding in report.stages[name].findings
        if finding.code == BASE_STUDENT
    }
    return replace(report, findings=[finding for finding in report.findings if finding not in told])


def _conversation(renderer: Renderer, options: Mapping[str, Any]) -> str:
    """Three messages and the start of a reply; one message where the template refuses that; empty without either."""
    try:
        return renderer.render(list(CONVERSATION), **options)
    except RnowError:
        return render(renderer, options) or ""


def _marks(renderer: Renderer, text: str) -> list[int]:
    """The special ids of a text, each once, in order."""
    return list(dict.fromkeys(i for i in renderer.encode(text) if i in renderer.special_ids))


def _names(renderer: Renderer, ids: Sequence[int]) -> str:
    return ", ".join(f"'{renderer.decode([i])}'" for i in ids) or "no special token"
