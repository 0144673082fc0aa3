"""Can this teacher score this student's tokens: same tokenizer, rows for every id, room for every sequence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnow_core.build.contexts import name_of
from rnow_core.build.engine import SELF
from rnow_core.build.placement import engine_of
from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.errors import Finding
from rnow_core.preflight.base_models import check_marks, check_student_end
from rnow_core.preflight.machine import gpu_memory
from rnow_core.preflight.model_facts import ModelFacts
from rnow_core.preflight.models import ModelFiles, read_model
from rnow_core.preflight.probe import reply_start
from rnow_core.preflight.quantization import check_teacher_quantization
from rnow_core.preflight.report import Findings
from rnow_core.preflight.teacher_weights import check_weights


def check_teachers(
    config: Config, project_dir: Path, student: ModelFiles, longest: int | None, found: Findings
) -> dict[str, ModelFacts]:
    """Facts of the teachers that have weights of their own here, by name; what is wrong goes to `found`.

    `longest`: tokens of the longest conversation that they may have to score, None where that is not known.
    """
    facts: dict[str, ModelFacts] = {}
    engine = engine_of(config, bool(gpu_memory()))
    for index, teacher in enumerate(config.teacher):
        section = "teacher" if len(config.teacher) == 1 else f"teacher[{index}]"
        key = f"{section}.path"
        found.extend(check_weights(teacher, project_dir, engine, section))
        if teacher.url and teacher.path != SELF and student.renderer:
            found.extend(check_student_end(student.renderer, student.ends, (), "model.path"))
        if teacher.path == SELF or teacher.url:
            continue
        files = read_model(teacher.path, project_dir, key, found, need_template=False)
        found.extend(compare(student, files, template_options(config.rollout.reasoning_mode), key))
        found.extend(check_teacher_quantization(teacher, files.facts, engine, section))
        if files.facts:
            facts[name_of(teacher)] = files.facts
            found.extend(check_teacher_window(files.facts, longest, key) if longest else [])
    return facts


def compare(student: ModelFiles, teacher: ModelFiles, options: Mapping[str, Any], key: str) -> list[Finding]:
    """Everything about a student and a teacher whose folders can be read; `key` names the teacher's path."""
    tokenizer = student.renderer or student.untemplated
    if tokenizer is None or teacher.renderer is None:
        return []
    other = check_tokenizers(tokenizer, teacher.renderer, key)
    if other or student.renderer is None:
        return other
    marks = check_marks(student.renderer, teacher.renderer, options, key)
    starts = check_template(student.renderer, teacher.renderer, options, key)
    found = (starts or marks) if all(finding.severity == "info" for finding in marks) else marks
    found += check_student_end(student.renderer, student.ends, teacher.ends, "model.path")
    if teacher.facts:
        found += check_vocabulary(student.renderer, teacher.facts, key)
    if student.renderer.source == teacher.renderer.source:
        message = (
            "the teacher is the student's own model: nothing to learn at the start, and twice the memory"
        )
        hint = "name another teacher; `self` is the student's base weights without a second copy"
        found.append(Finding("RN316", "warning", message, hint, path=key))
    return found


def check_tokenizers(student: Renderer, teacher: Renderer, key: str) -> list[Finding]:
    """RN310: the teacher's tokenizer is another one, so its logprobs would be of other words."""
    if student.fingerprint() == teacher.fingerprint():
        return []
    message = f"the teacher's tokenizer is not the student's: {_difference(student, teacher)}"
    hint = (
        "on-policy distillation needs one tokenizer: choose a teacher of the student's family, or distil "
        "off-policy from the teacher's text"
    )
    return [Finding("RN310", "error", message, hint, path=key)]


def _difference(student: Renderer, teacher: Renderer) -> str:
    """What is different, with the first id that means something else."""
    if student.vocab_size != teacher.vocab_size:
        return f"it has {teacher.vocab_size} ids, and the student's has {student.vocab_size}"
    for number in range(student.vocab_size):
        mine, other = student.decode([number]), teacher.decode([number])
        if mine != other:
            return (
                f"both have {student.vocab_size} ids, but id {number} is {other!r} for the teacher "
                f"and {mine!r} for the student"
            )
    return f"both have the same {student.vocab_size} ids, but cut text into them in different ways"


def check_vocabulary(student: Renderer, teacher: ModelFacts, key: str) -> list[Finding]:
    """RN311: the teacher's head has fewer rows than the tokenizer has ids. More rows are padding and fine."""
    if teacher.vocab_rows >= student.vocab_size:
        return []
    message = (
        f"the teacher has weights for {teacher.vocab_rows} ids, and the tokenizer has {student.vocab_size}"
    )
    return [
        Finding("RN311", "error", message, "choose a teacher that was trained with this tokenizer", path=key)
    ]


def check_teacher_window(teacher: ModelFacts, longest: int, key: str) -> list[Finding]:
    """RN312: the longest conversation that may come up does not fit into what the teacher reads."""
    if teacher.context_window >= longest:
        return []
    message = f"the teacher reads {teacher.context_window} tokens, and a conversation may have {longest}"
    hint = f"set rollout.max_context_window: {teacher.context_window}"
    return [Finding("RN312", "error", message, hint, path=key)]


def check_template(
    student: Renderer, teacher: Renderer, options: Mapping[str, Any], key: str
) -> list[Finding]:
    """RN313 (warning): the teacher's own template begins replies in another way than the student's, which it reads.

    That is how a thinking model and its variant without thinking differ. A teacher without a template is fine.
    """
    mine, other = reply_start(student, options), reply_start(teacher, options)
    if mine == other or not mine or not other:
        return []
    message = (
        f"replies begin behind {mine!r}, as the student's chat template writes it; the teacher's own template "
        f"ends a prompt with {other!r}"
    )
    hint = "the teacher scores the student's form: check rollout.reasoning_mode, or choose a teacher of that form"
    return [Finding("RN313", "warning", message, hint, path=key)]
