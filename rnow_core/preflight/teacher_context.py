"""What only the teacher sees: can it be rendered for every row, does it fit, and can a student learn from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.build.contexts import context_of, name_of
from rnow_core.build.engine import SELF
from rnow_core.config.inputs import TeacherConfig
from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer
from rnow_core.data.teacher_context import ContextError, TeacherContext
from rnow_core.env.tool_types import ToolInfo, tools_of
from rnow_core.errors import Finding, RnowError
from rnow_core.preflight.context_text import changed_reply, open_seam, reply_seam, row_specific
from rnow_core.preflight.model_facts import ModelFacts
from rnow_core.preflight.report import Findings
from rnow_core.preflight.rows import CountedPrompt, about_row
from rnow_core.types import Prompt

SAMPLES = 64
"""Different contexts of a teacher whose text is looked at."""

SLACK = 8
"""Tokens that a seam may add to what a context was counted with."""


@dataclass(frozen=True)
class Setting:
    """What contexts are checked against: the student's renderer and window, tools, teachers that can be read."""

    config: Config
    project_dir: Path
    renderer: Renderer
    tools: Sequence[ToolInfo]
    options: Mapping[str, Any]
    window: int
    teachers: Mapping[str, ModelFacts]

    def text(self, prompt: Prompt) -> str:
        """A row's prompt as text. Raises TemplateRefused."""
        schemas = [info.schema() for info in tools_of(prompt, self.tools)]
        return self.renderer.render(prompt.messages, tools=schemas or None, **self.options)

    def longest_reply(self, agentic: bool) -> int:
        """Tokens that may follow a row's prompt."""
        config = self.config
        one = max(config.rollout.max_tokens, config.eval.max_tokens or 0)
        return one * config.rollout.turns(agentic)


@dataclass(frozen=True)
class Seen:
    """A row with a context, and the tokens that its prompt has more for the teacher.

    `shown` is the row as the teacher sees it and that as text; only the first rows with a new context keep it.
    """

    row: CountedPrompt
    context: str
    extra: int
    shown: tuple[Prompt, str] | None


def check_contexts(setting: Setting, rows: Sequence[CountedPrompt], found: Findings) -> dict[str, int]:
    """Render every row for its teacher; everything wrong goes to `found`.

    Returns:
        By teacher, the most tokens that its context adds to a prompt; without those that see none.
    """
    teachers = setting.config.teacher
    extras: dict[str, int] = {}
    for index, teacher in enumerate(teachers):
        key = "teacher" if len(teachers) == 1 else f"teacher[{index}]"
        mine = [row for row in rows if (row.prompt.teacher or name_of(teachers[0])) == name_of(teacher)]
        try:
            context = context_of(teacher, setting.project_dir)
            seen = list(_seen(context, mine, setting, found, teacher, key))
        except ContextError as error:
            found.add(_about_context(error, teacher, key))
            continue
        if seen:
            extras[name_of(teacher)] = max(item.extra for item in seen)
            found.extend(_about_rows(seen, len(mine), context, teacher, key, setting))
    if any(row.prompt.teacher_context for row in rows):
        _take_back(found)
    return extras


def own_base(config: Config) -> list[str]:
    """The teachers that are the student's base weights."""
    return [name_of(teacher) for teacher in config.teacher if teacher.path == SELF]


def scored_windows(setting: Setting, extras: Mapping[str, int]) -> dict[str, int]:
    """By teacher with a context, the tokens of the longest sequence that it will score."""
    windows = {name: setting.window + extra + SLACK for name, extra in extras.items()}
    facts = setting.teachers
    return {
        name: min(window, facts[name].context_window) if name in facts else window
        for name, window in windows.items()
    }


def _take_back(found: Findings) -> None:
    """What config.yml says of a teacher without a context, where the rows bring contexts."""
    found.items[:] = [
        finding
        for finding in found.items
        if finding.code != "RN134" and not (finding.path or "").endswith("context_role")
    ]


def _seen(
    context: TeacherContext,
    rows: Sequence[CountedPrompt],
    setting: Setting,
    found: Findings,
    teacher: TeacherConfig,
    key: str,
) -> Iterator[Seen]:
    """The rows that have a context. A fault of the template is told once, with how many rows have it."""
    faults: dict[tuple[str, int | None], list[ContextError]] = {}
    extras: dict[tuple[str, int], int] = {}
    for row in rows:
        try:
            text = context.of(row.prompt)
            if not text:
                continue
            prompt = context.in_front_of(row.prompt)
            written = setting.text(prompt)
        except ContextError as error:
            faults.setdefault((error.reason, error.line), []).append(error)
        except RnowError as error:
            found.add(
                about_row(
                    row.prompt, "RN260", f"with the teacher's context: {error.message}", error.hint, key
                )
            )
        else:
            shape = text, len(prompt.messages) - len(row.prompt.messages)
            new = shape not in extras
            if new:
                extras[shape] = len(setting.renderer.encode(written)) - row.tokens
            kept = (prompt, written) if new and len(extras) <= SAMPLES else None
            yield Seen(row, text, extras[shape], kept)
    for errors in faults.values():
        found.add(_about_context(errors[0], teacher, key, f"; in {len(errors)} of {len(rows)} rows"))


def _about_context(error: ContextError, teacher: TeacherConfig, key: str, where: str = "") -> Finding:
    """RN260 at the context's file, or at its key in config.yml."""
    row = error.message.partition("(row ")[2]
    example = f", the first is {row[:-1]}" if row else ""
    if teacher.context_file is not None:
        message = f"teacher context: {error.reason}{where}{example}"
        return Finding("RN260", "error", message, error.hint, teacher.context_file, error.line)
    line = f"line {error.line} of the context: " if error.line else ""
    return Finding(
        "RN260", "error", f"{line}{error.reason}{where}{example}", error.hint, path=f"{key}.context"
    )


def _about_rows(
    seen: Sequence[Seen],
    total: int,
    context: TeacherContext,
    teacher: TeacherConfig,
    key: str,
    setting: Setting,
) -> Iterator[Finding]:
    """Everything about the rows of one teacher that can be rendered."""
    path = f"{key}.{'context_file' if teacher.context_file else 'context'}"
    samples = [(item.context, item.row.prompt, *item.shown) for item in seen if item.shown is not None]
    renderer, options = setting.renderer, setting.options
    yield from reply_seam(renderer, [text for *_, text in samples], path)
    yield from open_seam(renderer, [(said, row) for said, row, _, _ in samples], context.role, path)
    yield from changed_reply(renderer, [(row, shown, said) for said, row, shown, _ in samples], options, path)
    yield from row_specific([(item.row.prompt, item.context) for item in seen], total, path)
    facts = setting.teachers.get(name_of(teacher))
    if facts is not None:
        yield from _too_long(seen, facts.context_window, setting, path)


def _too_long(seen: Sequence[Seen], window: int, setting: Setting, path: str) -> Iterator[Finding]:
    """RN263: a prompt that fills what the teacher reads (error), or longest replies that go beyond it (warning)."""
    full = [item for item in seen if item.row.tokens + item.extra >= window]
    if full:
        worst = max(full, key=lambda item: item.row.tokens + item.extra)
        message = (
            f"the teacher reads {window} tokens, and with its context this row's prompt has "
            f"{worst.row.tokens + worst.extra}: no token of a reply could be scored (so in {len(full)} rows)"
        )
        hint = "shorten the context, or choose a teacher that reads more"
        yield about_row(worst.row.prompt, "RN263", message, hint, path)
        return
    beyond = [item for item in seen if _beyond(item, window, setting) > 0]
    if beyond:
        worst = max(beyond, key=lambda item: _beyond(item, window, setting))
        message = (
            f"the teacher reads {window} tokens: with its context, up to {_beyond(worst, window, setting)} tokens at "
            f"the end of a long reply are not scored (so in {len(beyond)} of {len(seen)} rows)"
        )
        hint = (
            "they are left out of the distillation and counted as teacher/unscored_tokens; to score everything shorten "
            "the context, or lower rollout.max_tokens"
        )
        yield about_row(worst.row.prompt, "RN263", message, hint, path, "warning")


def _beyond(item: Seen, window: int, setting: Setting) -> int:
    """Tokens of the row's longest conversation that the teacher would not read."""
    reply = setting.longest_reply(bool(tools_of(item.row.prompt, setting.tools)))
    return min(item.row.tokens + reply, setting.window) + item.extra - window
