"""Do the data rows fit the run: prompts rendered and counted, teachers and rewards known, nothing unavailable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnow_core.data.renderer import Renderer
from rnow_core.env.tool_types import ToolInfo, tools_of
from rnow_core.env.verifiers.table import BUILT_IN
from rnow_core.errors import Finding, RnowError
from rnow_core.types import Prompt


@dataclass(frozen=True)
class CountedPrompt:
    """A row and the tokens of its prompt as the student will see it; `highest_id` is the largest id in it."""

    prompt: Prompt
    tokens: int
    highest_id: int


def count_prompts(
    prompts: Sequence[Prompt], renderer: Renderer, tools: Sequence[ToolInfo], options: Mapping[str, Any]
) -> Iterator[CountedPrompt | Finding]:
    """Each row counted, or RN220 where the template refuses it."""
    for prompt in prompts:
        try:
            schemas = [info.schema() for info in tools_of(prompt, tools)]
            ids = renderer.prompt_ids(list(prompt.messages), tools=schemas or None, **options)
        except RnowError as error:
            yield about_row(prompt, "RN220", error.message, error.hint, "messages")
        else:
            yield CountedPrompt(prompt, len(ids), max(ids, default=-1))


def too_long(rows: Iterable[CountedPrompt], context_window: int) -> list[Finding]:
    """RN221 for every prompt that fills the context window."""
    return [
        about_row(
            row.prompt,
            "RN221",
            f"the prompt has {row.tokens} tokens, and the context window has {context_window}",
            "shorten or remove the row; the window is rollout.max_context_window, or else the student's",
            "messages",
        )
        for row in rows
        if row.tokens >= context_window
    ]


def little_room(rows: Sequence[CountedPrompt], context_window: int, max_tokens: int) -> list[Finding]:
    """RN222 (warning), once: how many prompts leave less than `max_tokens` for the reply, and the longest."""
    tight = [row for row in rows if context_window - max_tokens < row.tokens < context_window]
    if not tight:
        return []
    longest = max(tight, key=lambda row: row.tokens)
    left = context_window - longest.tokens
    message = (
        f"{len(tight)} of {len(rows)} prompts leave less than the wanted {max_tokens} tokens for the reply; "
        f"this one has {longest.tokens} tokens and leaves {left} of the context window of {context_window}"
    )
    hint = "replies will be cut there: shorten the rows, or lower the reply's max_tokens"
    return [about_row(longest.prompt, "RN222", message, hint, "messages", "warning")]


def unknown_ids(rows: Iterable[CountedPrompt], vocab_rows: int) -> list[Finding]:
    """RN226 for every prompt with an id that the student's embedding does not have."""
    return [
        about_row(
            row.prompt,
            "RN226",
            f"the prompt has the id {row.highest_id}, and the student has weights for {vocab_rows} ids",
            "take that token out of the row, or save the student with resized embeddings",
            "messages",
        )
        for row in rows
        if row.highest_id >= vocab_rows
    ]


def unknown_teachers(prompts: Iterable[Prompt], names: Sequence[str]) -> list[Finding]:
    """RN224 for every row whose `teacher` is not in the config."""
    listed = ", ".join(f"'{name}'" for name in names)
    return [
        about_row(
            prompt,
            "RN224",
            f"unknown teacher '{prompt.teacher}'",
            f"config.yml has: {listed}; teacher.name gives a teacher its name",
            "teacher",
        )
        for prompt in prompts
        if prompt.teacher is not None and prompt.teacher not in names
    ]


def unknown_rewards(prompts: Iterable[Prompt], known: Sequence[str]) -> list[Finding]:
    """RN230 for every row that names a reward which neither rewards.py nor rnow has."""
    listed = ", ".join(sorted(set(known) - BUILT_IN.keys())) or "no function with @reward"
    listed += f"; built in: {', '.join(BUILT_IN)}"
    return [
        about_row(
            prompt, "RN230", f"unknown reward '{name}'", f"rewards.py has: {listed}", f"rewards[{index}]"
        )
        for prompt in prompts
        for index, name in enumerate(prompt.rewards)
        if name not in known
    ]


def overlap(train: Sequence[Prompt], held_out: Sequence[Prompt]) -> list[Finding]:
    """RN223 (warning), once: how many held-out rows have the messages of a training row, and the first."""
    seen = {repr(prompt.messages): prompt for prompt in train}
    found = [prompt for prompt in held_out if repr(prompt.messages) in seen]
    if not found:
        return []
    twin = seen[repr(found[0].messages)]
    message = (
        f"{len(found)} of {len(held_out)} held-out rows are also training rows "
        f"(this one is {twin.file}:{twin.line})"
    )
    hint = "remove them from one of the files: the evaluation would measure memory"
    return [about_row(found[0], "RN223", message, hint, "messages", "warning")]


def about_row(
    prompt: Prompt, code: str, message: str, hint: str, path: str, severity: Any = "error"
) -> Finding:
    """A finding at a row."""
    return Finding(code, severity, message, hint, prompt.file, prompt.line, path=path)
