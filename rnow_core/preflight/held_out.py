"""Held-out conversations whose prompts the student of `sft` answers itself, for the project's rewards to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.env.define import RewardInfo
from rnow_core.env.load import REWARDS_FILE
from rnow_core.env.rewards import known_rewards
from rnow_core.env.tool_types import ToolInfo
from rnow_core.env.verifiers.table import BUILT_IN
from rnow_core.errors import Finding
from rnow_core.preflight.report import Findings
from rnow_core.preflight.rows import CountedPrompt, about_row, count_prompts, little_room, unknown_rewards
from rnow_core.preflight.tools import check_format, check_tools
from rnow_core.preflight.verifiers import check_verifiers
from rnow_core.types import Prompt


@dataclass(frozen=True)
class Asked:
    """The rewards that judge sampled replies, and the tokens of each prompt; both empty where nothing is sampled."""

    rewards: Mapping[str, RewardInfo] = field(default_factory=dict)
    tokens: Sequence[int] = ()


def reply_prompts(rows: Sequence[Prompt]) -> list[Prompt]:
    """What comes before the first assistant message of each row that names rewards and begins with a user's."""
    prompts = [
        replace(row, messages=tuple(takewhile(lambda message: message["role"] != "assistant", row.messages)))
        for row in rows
        if row.rewards
    ]
    return [row for row in prompts if any(message["role"] == "user" for message in row.messages)]


def check_replies(
    project_dir: Path,
    config: Config,
    renderer: Renderer,
    window: int,
    held_out: Sequence[Prompt],
    found: Findings,
) -> Asked:
    """What the evaluation by rewards needs. Without a reward that the project could have, nothing is asked.

    Findings: RN222 (warning) little room for replies, RN229 (warning) rows that cannot be sampled, RN230 to RN233
    about rewards, those of `check_tools`, RN317 tool calls that cannot be read.
    """
    rows = [row for row in held_out if row.rewards]
    names = {name for row in rows for name in row.rewards}
    if not names or not ((project_dir / REWARDS_FILE).is_file() or names <= BUILT_IN.keys()):
        return Asked()
    known = found.attempt(lambda: known_rewards(project_dir, names))
    if known is None:
        return Asked()
    found.extend(unknown_rewards(rows, sorted(known)))
    found.extend(check_verifiers(rows, known))
    prompts = reply_prompts(rows)
    found.extend(_without_prompt(rows, prompts))
    if not prompts:
        return Asked()
    tools = check_tools(project_dir, config, prompts, found)
    if tools:
        check_format(config, renderer, found)
    counted = _count(prompts, renderer, tools, config)
    found.extend(little_room(counted, window, config.eval.max_tokens or config.rollout.max_tokens))
    return Asked(known, [row.tokens for row in counted])


def _count(
    prompts: Sequence[Prompt], renderer: Renderer, tools: Sequence[ToolInfo], config: Config
) -> list[CountedPrompt]:
    """The prompts with their tokens; one that the template refuses is refused as a conversation already."""
    options = template_options(config.rollout.reasoning_mode)
    results = count_prompts(prompts, renderer, tools, options)
    return [result for result in results if isinstance(result, CountedPrompt)]


def _without_prompt(rows: Sequence[Prompt], prompts: Sequence[Prompt]) -> list[Finding]:
    """RN229 (warning), once: how many rows begin with the assistant, and the first."""
    sampled = {row.index for row in prompts}
    odd = [row for row in rows if row.index not in sampled]
    if not odd:
        return []
    message = (
        f"{len(odd)} of {len(rows)} held-out rows with rewards have no user message before the assistant's"
    )
    hint = "their loss is measured, no reply is sampled: begin them with what the student should answer"
    return [about_row(odd[0], "RN229", message, hint, "messages", "warning")]
