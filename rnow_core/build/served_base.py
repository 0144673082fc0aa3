"""A quantised student on a vLLM server: a plain model folder with the weights that its 4-bit layers multiply by."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from rnow_core.data.hub import text_files
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.folder import save_model
from rnow_core.models.quantized import fingerprint, plain_model
from rnow_core.track.atomic import write_folder_atomic

CACHE = Path(".rnow", "dequantized")
"""In the project. A folder there may be deleted between runs; the next one writes it again."""

NAME_LENGTH = 16


def served_base(student: CausalLM, project_dir: Path) -> Path:
    """The folder for the server, written unless an earlier run has; its name is a hash of the quantised weights.

    So sampler and learner have the same base: the server would otherwise sample from the weights before rounding.
    Takes main memory for the plain weights. Raises RunFailed when the disk does not take them.
    """
    folder = project_dir / CACHE / fingerprint(student.model)[:NAME_LENGTH]
    folder.parent.mkdir(parents=True, exist_ok=True)
    (project_dir / CACHE.parts[0] / ".gitignore").write_text("*\n", encoding="utf-8")
    with folder.with_name("lock").open("a") as lock:
        # of two runs that begin together, the second waits here and finds the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            write_folder_atomic(folder, lambda made: _write(student, made))
    return folder


def _write(student: CausalLM, folder: Path) -> None:
    for file in text_files(student.name):
        shutil.copy(file, folder)
    save_model(plain_model(student.model), folder)
