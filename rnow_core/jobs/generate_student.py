"""Who will be trained on generated rows: its tokenizer, template and context window, without its weights."""

from __future__ import annotations

from pathlib import Path

from rnow_core.config.load import LoadedConfig
from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.errors import FindingsError, RnowError
from rnow_core.preflight.model_facts import read_config
from rnow_core.preflight.models import MALFORMED, config_file, local_folder
from rnow_core.rollout.judge import Student

NONE, KEY = "none", "model.path"
HINT = "name the folder of a model, or a Hugging Face id such as Qwen/Qwen3-0.6B; none = rows are not checked"


def find_student(named: str | None, loaded: LoadedConfig | None) -> tuple[Student | None, str]:
    """The student of --student, else of config.yml; and what is checked, or why nothing is.

    Raises RnowError when the one that --student names cannot be read.
    """
    if named == NONE or (named is None and loaded is None):
        return None, "not checked: no config.yml, no --student" if named is None else "not checked"
    config = _sft(loaded.config) if loaded else None
    path = named if named is not None or config is None else config.model.path
    root = Path() if named is not None or loaded is None else loaded.root
    assert path is not None
    try:
        student = _read(path, root, config)
    except FindingsError as error:
        if named is not None:
            raise RnowError(f"--student: {error.findings[0].message}", HINT) from error
        return None, f"not checked: {error.findings[0].message}"
    except MALFORMED as error:
        if named is not None:
            raise RnowError(f"--student: {error}", getattr(error, "hint", "") or HINT) from error
        return None, f"not checked: {error}"
    return student, f"{path}, {student.window} tokens"


def _sft(config: Config) -> Config:
    """The stage that trains on the rows, of several; without stages the config itself."""
    return next((stage for stage in config.stage_configs() if stage.dataset_type == "sft"), config)


def _read(path: str, root: Path, config: Config | None) -> Student:
    folder = local_folder(path, root, KEY)
    renderer = Renderer.load(folder or path)
    window = read_config(config_file(path, root, KEY), path, KEY).context_window
    if config and config.rollout.max_context_window:
        window = min(window, config.rollout.max_context_window)
    return Student(renderer, template_options(config.rollout.reasoning_mode if config else None), window)
