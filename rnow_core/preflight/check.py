"""The checks behind `rnow validate`, and the first thing `rnow run` does. Reads everything, trains nothing, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rnow_core.config.load import LoadedConfig, load_config
from rnow_core.config.schema import Config
from rnow_core.data.batches import split
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.data.rows import load_prompts
from rnow_core.env.rewards import inspect_rewards
from rnow_core.errors import Finding, FindingsError, RnowError
from rnow_core.preflight.model_facts import ModelFacts, local_folder, read_model_facts
from rnow_core.preflight.plan import make_plan, memory_finding
from rnow_core.preflight.report import Findings, Project, Report
from rnow_core.preflight.rows import count_prompt_tokens, overlap, too_long, unknown_rewards
from rnow_core.preflight.teachers import check_tokenizers, check_vocabulary, check_window
from rnow_core.types import Prompt

CONFIG_FILE = "config.yml"
SELF = "self"


def check_project(project_dir: Path, overrides: Sequence[str] = ()) -> Report:
    """Check a whole project and plan its run.

    Args:
        project_dir: folder with config.yml.
        overrides: `key.path=value`, as on the command line.

    Returns:
        All findings at once. `project` is None as soon as one of them is an error.
    """
    try:
        loaded = load_config(project_dir / CONFIG_FILE, overrides)
    except FindingsError as error:
        return Report(error.findings, {}, None)
    return check_loaded(project_dir, loaded)


def check_loaded(project_dir: Path, loaded: LoadedConfig) -> Report:
    """Check models and data of a config that is valid in itself, each as far as it can be read without the others."""
    config = loaded.config
    found = Findings(loaded, [*loaded.findings, *loaded.unavailable()])
    student = found.attempt(lambda: read_model_facts(config.model.path, project_dir, "model.path"))
    renderer = _load_renderer(config.model.path, project_dir, "model.path", found)
    rows = _read_rows(project_dir, config, found)
    window = _context_window(config, student, found) if student else None
    teacher = _check_teacher(config, project_dir, renderer, window, found)
    tokens = _check_rows(config, rows, renderer, window, found) if renderer and window else []
    _check_rewards(project_dir, rows, found)
    if student is None or rows is None or renderer is None or window is None:
        return Report(found.items, {}, None)
    plan = make_plan(config, student, teacher, rows[0], tokens, window)
    found.items.extend(memory_finding(plan))
    project = Project(project_dir, loaded, rows[0], rows[1], renderer, window)
    report = Report(found.items, plan, project)
    return report if report.ok else Report(found.items, plan, None)


def _load_renderer(path: str, project_dir: Path, key: str, found: Findings) -> Renderer | None:
    """The tokenizer and chat template of a model; RN303 when they cannot be loaded."""
    folder = found.attempt(lambda: local_folder(path, project_dir))
    if folder is None and found.items and found.items[-1].code == "RN301":
        return None
    try:
        return Renderer.load(str(folder or path))
    except RnowError as error:
        found.add(Finding("RN303", "error", error.message, error.hint, path=key))
        return None


def _read_rows(
    project_dir: Path, config: Config, found: Findings
) -> tuple[Sequence[Prompt], Sequence[Prompt]] | None:
    """Training and held-out rows; None when a file has an error."""
    need = config.dataset_type == "rl" or config.weights.adv_tau > 0
    train = found.attempt(
        lambda: load_prompts(
            [Path(name) for name in config.data.train_file],
            dataset_type=config.dataset_type,
            need_rewards=need,
            root=project_dir,
        )
    )
    held_out = found.attempt(
        lambda: (
            load_prompts(
                [Path(name) for name in config.eval_files],
                dataset_type=config.dataset_type,
                need_rewards=False,
                root=project_dir,
            )
            if config.eval_files
            else []
        )
    )
    if train is None or held_out is None:
        return None
    if config.data.val_split is not None and not held_out:
        return split(train, config.data.val_split, config.seed)
    return train, held_out


def _context_window(config: Config, student: ModelFacts, found: Findings) -> int:
    """The tokens of a conversation: what the config says, at most what the student was made for."""
    wanted = config.rollout.max_context_window
    if wanted is not None and wanted > student.context_window:
        found.add(
            Finding(
                "RN320",
                "error",
                f"max_context_window is {wanted}, but the student reads {student.context_window} tokens",
                f"set it to at most {student.context_window}, or leave it out",
                path="rollout.max_context_window",
            )
        )
    return wanted or student.context_window


def _check_teacher(
    config: Config, project_dir: Path, student: Renderer | None, window: int | None, found: Findings
) -> ModelFacts | None:
    """Facts of the teacher, None for `self` and for runs without one."""
    if not config.teacher or config.teacher[0].path == SELF or config.teacher[0].url:
        return None
    path, key = config.teacher[0].path, "teacher.path"
    if any(finding.code == "RN120" for finding in found.items):
        return None
    facts = found.attempt(lambda: read_model_facts(path, project_dir, key))
    renderer = _load_renderer(path, project_dir, key, found) if facts else None
    if facts is None or renderer is None or student is None:
        return facts
    problems = check_tokenizers(student, renderer, key) or check_vocabulary(student, facts, key)
    for finding in [*problems, *(check_window(facts, window, key) if window else [])]:
        found.add(finding)
    return facts


def _check_rows(
    config: Config,
    rows: tuple[Sequence[Prompt], Sequence[Prompt]] | None,
    renderer: Renderer,
    window: int,
    found: Findings,
) -> list[int]:
    """Render and count every row; the token counts of the training rows."""
    if rows is None:
        return []
    options = template_options(config.rollout.reasoning_mode)
    counts: list[int] = []
    for prompts in rows:
        for prompt, tokens in count_prompt_tokens(prompts, renderer, options):
            problem = (
                tokens
                if isinstance(tokens, Finding)
                else too_long(prompt, tokens, window, config.rollout.max_tokens)
            )
            if problem is not None:
                found.add(problem)
            if isinstance(tokens, int) and prompts is rows[0]:
                counts.append(tokens)
    for finding in overlap(*rows):
        found.add(finding)
    return counts


def _check_rewards(
    project_dir: Path, rows: tuple[Sequence[Prompt], Sequence[Prompt]] | None, found: Findings
) -> None:
    """Load rewards.py in a worker and compare its names with what the rows want."""
    wanting = [prompt for prompts in rows or () for prompt in prompts if prompt.rewards]
    known = found.attempt(lambda: inspect_rewards(project_dir)) if wanting else None
    for finding in unknown_rewards(wanting, sorted(known)) if known is not None else []:
        found.add(finding)
