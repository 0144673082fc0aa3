"""What a teacher wears: an adapter that can be loaded, and an engine that can score with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rnow_core.build.contexts import worn_by_student
from rnow_core.build.placement import EngineName
from rnow_core.config.inputs import TeacherConfig
from rnow_core.errors import Finding
from rnow_core.preflight.models import ADAPTER_FILES, check_adapter


def check_weights(teacher: TeacherConfig, project_dir: Path, engine: EngineName, key: str) -> list[Finding]:
    """RN305 about the folder of `teacher.adapter`, RN307 about the engine; `key` names the teacher's section."""
    found = _adapter(teacher.adapter, project_dir, f"{key}.adapter") if teacher.adapter else []
    return found + (_served(teacher, key) if engine == "vllm" else [])


def _adapter(path: str, project_dir: Path, key: str) -> list[Finding]:
    """RN305: no folder of an adapter in PEFT format, or one that is not LoRA alone."""
    if missing := check_adapter(path, project_dir):
        return [replace(finding, path=key) for finding in missing]
    file = project_dir / Path(path).expanduser() / ADAPTER_FILES[0]
    hint = "name a folder in PEFT format, or merge the adapter into a model and name that as teacher.path"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        kind, whole = settings.get("peft_type"), settings.get("modules_to_save")
    except (OSError, ValueError, AttributeError) as error:
        message = f"'{path}' is not the folder of an adapter: {file.name} cannot be read: {error}"
        return [Finding("RN305", "error", message, hint, path=key)]
    if kind == "LORA" and not whole:
        return []
    got = f"{kind} adapter" if kind != "LORA" else f"LoRA adapter with whole layers ({', '.join(whole)})"
    message = f"'{path}' is a {got}, expected LoRA alone"
    return [Finding("RN305", "error", message, hint, path=key)]


def _served(teacher: TeacherConfig, key: str) -> list[Finding]:
    """RN307: beside vLLM, only the student's own copy in the trainer can wear something, and it does not sample."""
    if teacher.adapter is not None and not worn_by_student(teacher):
        message = (
            "this run scores on a vLLM server, whose logprobs of given tokens are not exact under an adapter "
            "(`teacher.adapter`)"
        )
        hint = "set rollout.engine: hf, or merge the adapter into a folder and name that as teacher.path"
        return [Finding("RN307", "error", message, hint, path=f"{key}.adapter")]
    if teacher.eval_baseline and worn_by_student(teacher):
        worn = "adapter" if teacher.adapter is not None else "ema"
        message = (
            f"`eval_baseline` samples from the teacher, and beside vLLM one with `teacher.{worn}` only scores"
        )
        hint = "set rollout.engine: hf, or leave eval_baseline out"
        return [Finding("RN307", "error", message, hint, path=f"{key}.eval_baseline")]
    return []
