"""Do the data rows fit the student: every prompt rendered and counted, every reward known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rnow_core.data.renderer import Renderer
from rnow_core.errors import Finding, RnowError
from rnow_core.types import Prompt


def count_prompt_tokens(
    prompts: Sequence[Prompt], renderer: Renderer, options: Mapping[str, Any]
) -> Iterator[tuple[Prompt, int | Finding]]:
    """Tokens of each row's prompt as the student will see it, or RN220 where the template refuses the row."""
    for prompt in prompts:
        try:
            yield prompt, len(renderer.prompt_ids(list(prompt.messages), **options))
        except RnowError as error:
            yield (
                prompt,
                Finding(
                    "RN220", "error", error.message, error.hint, prompt.file, prompt.line, path="messages"
                ),
            )


def too_long(prompt: Prompt, tokens: int, context_window: int, max_tokens: int) -> Finding | None:
    """RN221 (error) for a prompt that fills the context, RN222 (warning) for one that leaves too little room."""
    if tokens >= context_window:
        return Finding(
            "RN221",
            "error",
            f"the prompt has {tokens} tokens, but the context window has {context_window}",
            "shorten the row, or raise rollout.max_context_window if the model allows it",
            prompt.file,
            prompt.line,
            path="messages",
        )
    if tokens + max_tokens > context_window:
        return Finding(
            "RN222",
            "warning",
            f"the prompt has {tokens} tokens, which leaves {context_window - tokens} of the wanted "
            f"{max_tokens} for the reply",
            "shorten the row, or lower rollout.max_tokens",
            prompt.file,
            prompt.line,
            path="messages",
        )
    return None


def unknown_rewards(prompts: Iterable[Prompt], known: Sequence[str]) -> list[Finding]:
    """RN230 for every row that names a reward which rewards.py does not have."""
    listed = ", ".join(sorted(known)) or "none"
    return [
        Finding(
            "RN230",
            "error",
            f"unknown reward '{name}'",
            f"rewards.py has: {listed}",
            prompt.file,
            prompt.line,
            path="rewards",
        )
        for prompt in prompts
        for name in prompt.rewards
        if name not in known
    ]


def overlap(train: Sequence[Prompt], held_out: Sequence[Prompt]) -> list[Finding]:
    """RN223 (warning): held-out rows whose messages stand in the training data as well."""
    seen = {repr(prompt.messages): prompt for prompt in train}
    found = [prompt for prompt in held_out if repr(prompt.messages) in seen]
    if not found:
        return []
    first = found[0]
    twin = seen[repr(first.messages)]
    return [
        Finding(
            "RN223",
            "warning",
            f"{len(found)} of {len(held_out)} held-out rows are also training rows "
            f"(this one is {twin.file}:{twin.line})",
            "remove them from one of the files; the evaluation would measure memory",
            first.file,
            first.line,
        )
    ]
