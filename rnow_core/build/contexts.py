"""Config -> what each teacher sees besides the student's prompt. Imports no torch: `validate` uses it too."""

from __future__ import annotations

from pathlib import Path

from rnow_core.config.inputs import TeacherConfig
from rnow_core.config.schema import Config
from rnow_core.data.teacher_context import TeacherContext, load_context


def name_of(teacher: TeacherConfig) -> str:
    """What rows and metrics call a teacher."""
    return teacher.name or "teacher"


def context_of(teacher: TeacherConfig, project_dir: Path) -> TeacherContext:
    """What only this teacher sees. Raises ContextError when its file cannot be read."""
    return load_context(teacher.context, teacher.context_file, teacher.context_role, project_dir)


def contexts_of(config: Config, project_dir: Path) -> dict[str, TeacherContext]:
    """By teacher, what only it sees. Raises ContextError when a file cannot be read."""
    return {name_of(teacher): context_of(teacher, project_dir) for teacher in config.teacher}
