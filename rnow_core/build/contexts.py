"""Config -> what each teacher sees besides the student's prompt, and where it scores.

Imports no torch: `validate` uses it too.
"""

from __future__ import annotations

from pathlib import Path

from rnow_core.build.engine import SELF
from rnow_core.config.inputs import TeacherConfig
from rnow_core.config.schema import Config
from rnow_core.data.teacher_context import ContextError, TeacherContext, load_context

LONG_CONTEXT = 1024
"""Characters of a context that is better scored in this process, some hundred tokens."""


def name_of(teacher: TeacherConfig) -> str:
    """What rows and metrics call a teacher."""
    return teacher.name or "teacher"


def worn_by_student(teacher: TeacherConfig) -> bool:
    """Whether the teacher is the student's base weights under an adapter, its own average or an earlier one."""
    return teacher.path == SELF and (teacher.adapter is not None or teacher.ema is not None)


def scores_here(teacher: TeacherConfig, project_dir: Path) -> bool:
    """Whether the trainer's own copy of the student is the teacher even beside servers.

    Always where it wears something, which a server's base weights do not; and for a long context, which is computed
    once here and for each rollout on a server, unless the teacher also samples there.
    """
    if teacher.path != SELF or worn_by_student(teacher):
        return teacher.path == SELF
    try:
        context = context_of(teacher, project_dir).text or ""
    except ContextError:  # `validate` says what is wrong with it
        return False
    return len(context) >= LONG_CONTEXT and not teacher.eval_baseline


def context_of(teacher: TeacherConfig, project_dir: Path) -> TeacherContext:
    """What only this teacher sees. Raises ContextError when its file cannot be read."""
    return load_context(teacher.context, teacher.context_file, teacher.context_role, project_dir)


def contexts_of(config: Config, project_dir: Path) -> dict[str, TeacherContext]:
    """By teacher, what only it sees. Raises ContextError when a file cannot be read."""
    return {name_of(teacher): context_of(teacher, project_dir) for teacher in config.teacher}
