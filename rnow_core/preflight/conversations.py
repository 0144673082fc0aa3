"""What `validate` checks of a project that trains on given conversations (`dataset_type: sft`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.config.load import LoadedConfig
from rnow_core.config.schema import Config
from rnow_core.data.conversations import Conversations
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.env.tool_types import ToolInfo, tools_of
from rnow_core.errors import Finding, RnowError, UsageError
from rnow_core.preflight.held_out import Asked, check_replies
from rnow_core.preflight.machine import check_packages
from rnow_core.preflight.models import ModelFiles
from rnow_core.preflight.plan import disk_finding, memory_finding, server_findings
from rnow_core.preflight.report import Findings, Project
from rnow_core.preflight.rows import CountedPrompt, about_row, overlap, unknown_ids
from rnow_core.preflight.tools import known_tools
from rnow_core.preflight.training_plan import Measured, make_training_plan
from rnow_core.types import Prompt


@dataclass(frozen=True)
class Counted:
    """A conversation with its tokens, and how many of them are trained."""

    row: CountedPrompt
    trained: int


def conversations_of(config: Config, renderer: Renderer, tools: Sequence[ToolInfo]) -> Conversations:
    """How the rows of a project become ids and masks; `tools` are the project's."""

    def schemas(row: Prompt) -> list[dict[str, Any]] | None:
        return [info.schema() for info in tools_of(row, tools)] or None

    return Conversations(
        renderer,
        schemas,
        template_options(config.rollout.reasoning_mode),
        last_turn_only=config.trainer.train_on == "last_assistant",
    )


def check_conversations(
    project_dir: Path,
    loaded: LoadedConfig,
    student: ModelFiles,
    window: int | None,
    train: Sequence[Prompt],
    held_out: Sequence[Prompt],
    found: Findings,
) -> tuple[Mapping[str, Any], Project | None]:
    """The plan and the project, as far as both can be had; every row is rendered with its tools.

    Findings: those of `known_tools` and `check_replies`, RN220 a row that the template refuses, RN228 a conversation
    that is longer than `window`, RN226 an unknown id, RN223 (warning) held-out rows that are trained on, RN245
    (warning) calls of tools that a row does not offer, RN401 packages, RN410 to RN412 memory, disk and GPUs.
    """
    config = loaded.config
    found.extend(overlap(train, held_out))
    found.extend(check_packages(config))
    asked = Asked()
    if student.renderer and window:
        asked = check_replies(project_dir, config, student.renderer, window, held_out, found)
    tools = known_tools(project_dir, config, [*train, *held_out], found)
    found.extend(_calls_not_offered([*train, *held_out], tools))
    if student.renderer is None or student.facts is None or window is None:
        return {}, None
    conversations = conversations_of(config, student.renderer, tools)
    counted: list[list[Counted]] = []
    for rows in (train, held_out):
        results = list(_count(rows, conversations))
        found.extend(result for result in results if isinstance(result, Finding))
        counted.append([result for result in results if isinstance(result, Counted)])
    everything = [item.row for part in counted for item in part]
    found.extend(_too_long(everything, window))
    found.extend(unknown_ids(everything, student.facts.vocab_rows))
    known = Measured(
        student=student.facts,
        rows=train,
        held_out=held_out,
        tokens=[item.row.tokens for item in counted[0]],
        trained_tokens=[item.trained for item in counted[0]],
        longest=max((row.tokens for row in everything), default=0),
        context_window=window,
        asked=asked.tokens,
    )
    plan = _plan(config, known, project_dir, found)
    project = Project(
        project_dir,
        loaded,
        train,
        held_out,
        student.renderer,
        window,
        rewards=asked.rewards,
        tools=tools,
        conversations=conversations,
    )
    return plan, project


def _count(rows: Sequence[Prompt], conversations: Conversations) -> Iterator[Counted | Finding]:
    """Each row counted, or RN220 where the template cannot write it."""
    for row in rows:
        try:
            done = conversations.tokenize(row)
        except RnowError as error:
            yield about_row(row, "RN220", error.message, error.hint, "messages")
        else:
            counted = CountedPrompt(row, len(done.ids_T), max(done.ids_T, default=-1))
            yield Counted(counted, sum(done.mask_T))


def _too_long(rows: Sequence[CountedPrompt], window: int) -> list[Finding]:
    """RN228 for every conversation that is longer than the context window."""
    return [
        about_row(
            row.prompt,
            "RN228",
            f"the conversation has {row.tokens} tokens, and the context window has {window}",
            "shorten or remove the row; the window is rollout.max_context_window, or else the student's",
            "messages",
        )
        for row in rows
        if row.tokens > window
    ]


def _calls_not_offered(rows: Sequence[Prompt], tools: Sequence[ToolInfo]) -> list[Finding]:
    """RN245 (warning), once: how many rows call tools that the student is not shown, and the first."""
    found: list[tuple[Prompt, str]] = []
    for row in rows:
        offered = {info.name for info in tools_of(row, tools)}
        calls = [call for message in row.messages for call in message.get("tool_calls") or ()]
        missing = [call["function"]["name"] for call in calls if call["function"]["name"] not in offered]
        found += [(row, missing[0])] if missing else []
    if not found:
        return []
    row, name = found[0]
    message = f"{len(found)} of {len(rows)} rows call tools that they do not offer (this one: '{name}')"
    hint = "name them in the row's `tools` and define them in tools.py, as at rollout"
    return [about_row(row, "RN245", message, hint, "tools", "warning")]


def _plan(config: Config, known: Measured, project_dir: Path, found: Findings) -> dict[str, Any]:
    """The plan, and what it says against the run; empty when the machine lacks what the config names."""
    try:
        plan = make_training_plan(config, known, project_dir)
    except UsageError as error:
        found.add(Finding("RN412", "error", error.message, error.hint, path="resources"))
        return {}
    smaller = "lower trainer.micro_batch_tokens, shorten the longest rows, or use a smaller model"
    found.extend([*memory_finding(plan, smaller), *server_findings(plan), *disk_finding(plan, project_dir)])
    return plan
