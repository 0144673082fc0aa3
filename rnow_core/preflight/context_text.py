"""A teacher's context as text: what happens at its seams, and whether it says the same to every row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnow_core.data.renderer import Renderer
from rnow_core.data.teacher_context import Role, behind_context
from rnow_core.errors import Finding, RnowError
from rnow_core.types import Prompt

REPLY_BEGINNINGS = ("The", " The", "I", "Okay", "1", " 1")
"""How replies often begin."""

SEAM = 40
"""Characters on each side that decide how a seam is cut into tokens."""

ANSWER = re.compile(
    r"(^|_)(answers?|solutions?|targets?|labels?|expected|reference|ground_?truth|gold|results?)($|_)", re.I
)
"""Names of fields that usually hold what a reply is compared with."""

SHARE = 0.5
"""More different contexts than this share of the rows are specific to rows."""

SWITCH = re.compile(r"(?<!\S)/(?:no_)?think\b")


def reply_seam(renderer: Renderer, texts: Sequence[str], path: str) -> Iterator[Finding]:
    """RN261, once: a prompt whose end would be one token together with the beginning of a reply.

    The student's ids stand verbatim behind the prompt, so what the teacher reads there would be cut in a way that no
    text is. A special token or a newline at the end of the prompt keeps the two apart.
    """
    for text in texts:
        ids = renderer.encode(text)
        if not ids or ids[-1] in renderer.special_ids or text.endswith("\n"):
            continue
        for beginning in REPLY_BEGINNINGS:
            if renderer.encode(text + beginning)[: len(ids)] != ids:
                message = (
                    f"the prompt ends with {text[-20:]!r}, and a reply that begins with {beginning!r} would be one "
                    "token with it: the teacher would score a text that is cut where no text is"
                )
                hint = (
                    "a chat template must end its prompt with a special token or a newline; use one that does"
                )
                yield Finding("RN261", "error", message, hint, path=path)
                return


def open_seam(
    renderer: Renderer, contexts: Sequence[tuple[str, Prompt]], role: Role, path: str
) -> Iterator[Finding]:
    """RN262 (information), once: a context that runs into the text behind it."""
    for context, prompt in contexts:
        text = behind_context(prompt, role)
        if not text:
            continue
        left, right = context[-SEAM:], text[:SEAM]
        _, offsets = renderer.encode_with_offsets(left + right)
        joined = any(start < len(left) < end for start, end in offsets)
        close = not left[-1].isspace() and not right[0].isspace()
        if joined or close:
            how = "their seam lies inside a token" if joined else "nothing stands between them"
            message = f"the context ends with {left[-20:]!r}, the row goes on with {right[:20]!r}: {how}"
            hint = "whitespace is taken as written: end the context with a blank line if it is a paragraph of its own"
            yield Finding("RN262", "info", message, hint, path=path)
            return


def changed_reply(
    renderer: Renderer, rows: Sequence[tuple[Prompt, Prompt, str]], options: Mapping[str, Any], path: str
) -> Iterator[Finding]:
    """RN265, once: a context with which the reply begins in another way (error), or that switches thinking (warning).

    `rows`: a row, the same row with its context, and the context.
    """
    for row, with_context, context in rows:
        mine, teachers = (_beginning(renderer, prompt, options) for prompt in (row, with_context))
        if mine != teachers:
            message = (
                f"with the context the prompt ends with {teachers[-60:]!r}, without it with {mine[-60:]!r}: the "
                "student's reply would stand behind another beginning (a switched thinking mode?)"
            )
            hint = "take what switches the mode out of the context; rollout.reasoning_mode sets it for both"
            yield Finding("RN265", "error", message, hint, path=path)
            return
        word = SWITCH.search(context)
        if word:
            said = word.group()
            message = (
                f"the context says {said}, which switches some models' thinking; the student does not see it"
            )
            hint = "leave it out: rollout.reasoning_mode sets the thinking mode of student and teacher"
            yield Finding("RN265", "warning", message, hint, path=path)
            return


def _beginning(renderer: Renderer, prompt: Prompt, options: Mapping[str, Any]) -> str:
    """What the template writes behind a row for the reply to begin."""
    whole = renderer.render(prompt.messages, **options)
    try:
        history = renderer.render(prompt.messages, add_generation_prompt=False, **options)
    except RnowError:
        return ""
    return whole.removeprefix(history)


def row_specific(rows: Sequence[tuple[Prompt, str]], total: int, path: str) -> Iterator[Finding]:
    """RN264 (warning): contexts that say something else to nearly every row, such as its answer."""
    distinct = len({context for _, context in rows})
    if distinct < 2:
        return
    field = next((name for name in _answer_fields(rows) if _gives_away(rows, name)), None)
    if field is not None:
        what = f"the teacher's context gives away the row's own `{field}`"
    elif distinct > SHARE * len(rows):
        what = f"the teacher's context is another one in {distinct} of {total} rows"
    else:
        return
    message = (
        f"{what}: the student never sees it, so it cannot internalise it; what it learns is an average over the rows' "
        "contexts, and such runs are known to collapse into one (arXiv 2605.11182)"
    )
    hint = (
        "rules, personas and worked examples that all rows share distil well; with a context for each row train few "
        "epochs, set algorithm.clip_min and clip_max, and watch the held-out reward"
    )
    yield Finding("RN264", "warning", message, hint, path=path)


def _answer_fields(rows: Sequence[tuple[Prompt, str]]) -> list[str]:
    names = dict.fromkeys(
        name for prompt, _ in rows for name in (*prompt.metadata, *prompt.extra) if ANSWER.search(name)
    )
    return list(names)


def _gives_away(rows: Sequence[tuple[Prompt, str]], field: str) -> bool:
    """Whether more than half of the contexts hold their own row's value, and not the next other value."""
    values = [_value(prompt, field) for prompt, _ in rows]
    others = list(dict.fromkeys(value for value in values if value))
    if len(others) < 2:
        return False
    follows = dict(zip(others, [*others[1:], others[0]], strict=True))
    hits = sum(
        bool(value) and _holds(context, value) and not _holds(context, follows[value])
        for (_, context), value in zip(rows, values, strict=True)
    )
    return hits > SHARE * len(rows)


def _value(prompt: Prompt, field: str) -> str:
    value = prompt.metadata.get(field, prompt.extra.get(field))
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _holds(text: str, value: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value.strip())}(?!\w)", text) is not None
