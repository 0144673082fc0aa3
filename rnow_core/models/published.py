"""A whole model that the learner has published, looked at before a server loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.folder import check_complete, check_model_path, quietly

WEIGHTS, TIED_HEAD = "model.safetensors", "tied_head.safetensors"


def check_published(folder: Path) -> Any:
    """The folder's model on torch's meta device: names and shapes, no values.

    Raises:
        RunFailed: a file is missing or cut, or the weights are not those that config.json asks for.
    """
    try:
        check_model_path(str(folder))
        with quietly():
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                device_map="meta",
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        check_complete(str(folder), info)
    except (OSError, ValueError, KeyError, SafetensorError, RnowError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunFailed(
            f"{folder} is not a whole model: {first}",
            "the disk may be full; when there is room, continue with: rnow run --resume",
        ) from error
    return model


def write_tied_head(folder: Path, model: Any) -> None:
    """Write the output head beside the weights where it is tied to the embedding and so not among them.

    vLLM's CPU kernels compute with a packed copy of the head, which a reload renews only from a weight of that name.
    `model` is `check_published`'s. Raises RunFailed for weights in several files: vLLM reads only the listed ones.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return
    if not (folder / WEIGHTS).is_file():
        raise RunFailed(
            f"{folder} has its weights in several files; a vLLM server on the CPU cannot reload a tied head then",
            "use a GPU, or rollout.engine: hf",
        )
    tied = {name for name, weight in model.named_parameters(remove_duplicate=False) if weight is head.weight}
    with safe_open(folder / WEIGHTS, "pt") as file:
        (stored,) = tied & set(file.keys())
        save_file({name: file.get_tensor(stored) for name in tied - {stored}}, folder / TIED_HEAD)
