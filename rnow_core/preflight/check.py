"""The checks behind `rnow validate`, and the first thing `rnow run` does: reads everything, loads no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rnow_core.config.load import LoadedConfig, load_config
from rnow_core.config.schema import Config
from rnow_core.config.stages import continues, in_stages, stage_name
from rnow_core.data.batches import split
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.data.rows import load_prompts
from rnow_core.env.define import RewardInfo
from rnow_core.env.rewards import known_rewards
from rnow_core.env.tool_types import ToolInfo
from rnow_core.errors import Finding, FindingsError, RnowError, UsageError
from rnow_core.preflight.base_models import after_training, without_base_warning
from rnow_core.preflight.conversations import check_conversations
from rnow_core.preflight.machine import check_packages
from rnow_core.preflight.model_facts import ModelFacts
from rnow_core.preflight.models import ModelFiles, check_adapter, read_model
from rnow_core.preflight.plan import (
    Known,
    context_finding,
    disk_finding,
    longest_conversation,
    make_plan,
    memory_finding,
    server_findings,
)
from rnow_core.preflight.quantization import check_quantization
from rnow_core.preflight.report import Findings, Project, Report, presented
from rnow_core.preflight.rows import (
    CountedPrompt,
    count_prompts,
    little_room,
    overlap,
    too_long,
    unknown_ids,
    unknown_rewards,
    unknown_teachers,
)
from rnow_core.preflight.signals import signal_findings
from rnow_core.preflight.stages import check_stages
from rnow_core.preflight.students import check_end_of_turn, check_ids, check_reasoning_mode, check_window
from rnow_core.preflight.teacher_context import Setting, check_contexts, own_base, scored_windows
from rnow_core.preflight.teachers import check_teachers
from rnow_core.preflight.tools import check_format, check_tools
from rnow_core.preflight.verifiers import check_verifiers
from rnow_core.types import Prompt

CONFIG_FILE = "config.yml"


Checked = tuple[Mapping[str, Any], Project | None]
"""The plan and the project, as far as both could be had."""


@dataclass(frozen=True)
class Rows:
    """The rows of a project."""

    train: Sequence[Prompt]
    held_out: Sequence[Prompt]


@dataclass(frozen=True)
class Counted:
    """The rows that the student's template renders, with their tokens."""

    train: list[CountedPrompt]
    held_out: list[CountedPrompt]


def check_project(project_dir: Path, overrides: Sequence[str] = ()) -> Report:
    """Check a whole project and plan its run, each stage of it where there are several.

    Args:
        project_dir: folder with config.yml.
        overrides: `key.path=value`, as on the command line.

    Returns:
        All findings at once. `project` is None as soon as one of them is an error.
    """
    try:
        loaded = load_config(project_dir / CONFIG_FILE, overrides)
    except FindingsError as error:
        return Report(presented(error.findings, project_dir), {}, None)
    if not loaded.config.stages:
        return check_loaded(project_dir, loaded)
    stages = in_stages(loaded)
    named = {stage_name(index, stage.config): stage for index, stage in enumerate(stages)}
    report = check_stages(project_dir, loaded.findings, named, partial(check_loaded, project_dir))
    configs, overlays = [stage.config for stage in stages], loaded.config.stages
    continued = (name for index, name in enumerate(named) if continues(configs, overlays, index))
    return after_training(replace(report, continued=frozenset(continued)))


def check_loaded(project_dir: Path, loaded: LoadedConfig) -> Report:
    """Check models and data of a config that is valid in itself, each as far as it can be read without the others."""
    config = loaded.config
    found = Findings(loaded, [*loaded.findings, *loaded.unavailable()])
    student = read_model(config.model.path, project_dir, "model.path", found)
    if config.model.adapter:
        found.extend(check_adapter(config.model.adapter, project_dir))
    window = context_window_of(config, student.facts) if student.facts else None
    rows = _read_rows(project_dir, config, found)
    options = template_options(config.rollout.reasoning_mode)
    _check_student_text(config, student, options, found)
    if config.dataset_type == "sft":
        plan, project = _conversations(project_dir, loaded, student, window, rows, found)
    else:
        plan, project = _prompts(project_dir, loaded, student, window, rows, options, found)
    items = without_base_warning(found.items) if config.model.adapter else found.items
    report = Report(presented(items, project_dir), dict(plan), project)
    return report if report.ok else Report(report.findings, report.plan, None)


def _conversations(
    project_dir: Path,
    loaded: LoadedConfig,
    student: ModelFiles,
    window: int | None,
    rows: Rows | None,
    found: Findings,
) -> Checked:
    """What `sft` trains on: no teacher, and sampling only for held-out rows with rewards."""
    if rows is None:
        return {}, None
    return check_conversations(project_dir, loaded, student, window, rows.train, rows.held_out, found)


def _prompts(
    project_dir: Path,
    loaded: LoadedConfig,
    student: ModelFiles,
    window: int | None,
    rows: Rows | None,
    options: Mapping[str, Any],
    found: Findings,
) -> Checked:
    """What `distill` and `rl` need: prompts with tools and rewards, a teacher, room for replies."""
    config = loaded.config
    tools = check_tools(project_dir, config, [*rows.train, *rows.held_out], found) if rows else ()
    counted = _count(rows, student.renderer, tools, options, found) if rows and student.renderer else None
    if tools and student.renderer:
        check_format(config, student.renderer, found)
    if counted and student.facts and window:
        _check_lengths(config, counted, student.facts, window, found)
    longest = _longest(config, counted, window) if counted and window else None
    teachers = check_teachers(config, project_dir, student, longest, found)
    rewards = _check_fields(config, project_dir, rows, found)
    found.extend(check_packages(config))
    plan: dict[str, Any] = {}
    project = None
    if student.facts and student.renderer and window and rows and counted:
        tokens = [row.tokens for row in counted.train]
        facts = {**dict.fromkeys(own_base(config), student.facts), **teachers}
        setting = Setting(config, project_dir, student.renderer, tools, options, window, facts)
        extras = check_contexts(setting, [*counted.train, *counted.held_out], found)
        teacher = next(iter(teachers.values()), None)
        extra = max(extras.values(), default=0)
        known = Known(student.facts, teacher, rows.train, rows.held_out, tokens, window, extra)
        plan = _plan(config, known, project_dir, found)
        project = Project(
            project_dir,
            loaded,
            rows.train,
            rows.held_out,
            student.renderer,
            window,
            rewards,
            tools,
            teacher_windows=scored_windows(setting, extras),
        )
    return plan, project


def _plan(config: Config, known: Known, project_dir: Path, found: Findings) -> dict[str, Any]:
    """The plan, and what it says against the run; empty when the roles cannot be placed."""
    try:
        plan = make_plan(config, known, project_dir)
    except UsageError as error:
        found.add(Finding("RN412", "error", error.message, error.hint, path="resources"))
        return {}
    found.extend([*memory_finding(plan), *server_findings(plan), *disk_finding(plan, project_dir)])
    found.extend([*context_finding(plan), *signal_findings(config, plan)])
    return plan


def context_window_of(config: Config, student: ModelFacts) -> int:
    """The tokens of a conversation: what the config says, at most what the student was made for."""
    return min(config.rollout.max_context_window or student.context_window, student.context_window)


def _read_rows(project_dir: Path, config: Config, found: Findings) -> Rows | None:
    """Training and held-out rows; None when a file has an error."""
    need = config.dataset_type == "rl" or config.weights.adv_tau > 0

    def read(names: Sequence[str], need_rewards: bool) -> list[Prompt]:
        paths = [Path(name) for name in names]
        return load_prompts(
            paths, dataset_type=config.dataset_type, need_rewards=need_rewards, root=project_dir
        )

    train = found.attempt(lambda: read(config.data.train_file, need))
    held_out = found.attempt(lambda: read(config.eval_files, False) if config.eval_files else [])
    if train is None or held_out is None:
        return None
    if config.data.val_split is None or held_out:
        return Rows(train, held_out)
    try:
        return Rows(*split(train, config.data.val_split, config.seed))
    except RnowError as error:
        found.add(Finding("RN227", "error", error.message, error.hint, path="data.val_split"))
        return None


def _count(
    rows: Rows,
    renderer: Renderer,
    tools: Sequence[ToolInfo],
    options: Mapping[str, Any],
    found: Findings,
) -> Counted:
    """Render and count every row."""
    parts: list[list[CountedPrompt]] = []
    for prompts in (rows.train, rows.held_out):
        results = list(count_prompts(prompts, renderer, tools, options))
        found.extend(result for result in results if isinstance(result, Finding))
        parts.append([result for result in results if isinstance(result, CountedPrompt)])
    return Counted(*parts)


def _check_lengths(
    config: Config, counted: Counted, student: ModelFacts, window: int, found: Findings
) -> None:
    """Prompts and replies against the context window and the student's vocabulary."""
    eval_tokens = config.eval.max_tokens or config.rollout.max_tokens
    for rows, max_tokens in ((counted.train, config.rollout.max_tokens), (counted.held_out, eval_tokens)):
        found.extend(too_long(rows, window))
        found.extend(little_room(rows, window, max_tokens))
        found.extend(unknown_ids(rows, student.vocab_rows))


def _check_student_text(
    config: Config, student: ModelFiles, options: Mapping[str, Any], found: Findings
) -> None:
    """The student's tokenizer, template and window in themselves."""
    if student.facts:
        found.extend(check_window(config.rollout.max_context_window, student.facts))
        if config.model.quantization:
            found.extend(check_quantization(student.facts, "model.quantization"))
    if student.renderer:
        found.extend(check_end_of_turn(student.renderer))
        found.extend(check_reasoning_mode(student.renderer, options))
    if student.renderer and student.facts:
        found.extend(check_ids(student.renderer, student.facts))


def _longest(config: Config, counted: Counted, window: int) -> int:
    """Tokens of the longest conversation in training or evaluation."""
    eval_tokens = config.eval.max_tokens or config.rollout.max_tokens
    return max(
        longest_conversation([row.tokens for row in counted.train], config.rollout.max_tokens, window),
        longest_conversation([row.tokens for row in counted.held_out], eval_tokens, window)
        if counted.held_out
        else 0,
    )


def _check_fields(
    config: Config, project_dir: Path, rows: Rows | None, found: Findings
) -> Mapping[str, RewardInfo]:
    """What rows ask for by name: rewards, teachers, tools, containers. The project's rewards, if rows name any."""
    if rows is None:
        return {}
    prompts = [*rows.train, *rows.held_out]
    found.extend(overlap(rows.train, rows.held_out))
    if config.teacher:
        found.extend(unknown_teachers(prompts, [teacher.name or "teacher" for teacher in config.teacher]))
    names = {name for prompt in prompts for name in prompt.rewards}
    if not names:
        return {}
    known = found.attempt(lambda: known_rewards(project_dir, names))
    if known is None:
        return {}
    found.extend(unknown_rewards(prompts, sorted(known)))
    found.extend(check_verifiers(prompts, known))
    return known
