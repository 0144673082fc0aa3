"""A frozen LoRA adapter on a model that is a teacher, or on the student's, beside the one that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file

from rnow_core.errors import RnowError
from rnow_core.models.adapter import CONFIG, READ_ERRORS, WEIGHTS
from rnow_core.models.causal_lm import CausalLM

NAME = "teacher"


def wear(lm: CausalLM, folder: Path) -> Callable[[], AbstractContextManager[None]]:
    """Load the adapter in PEFT format of `folder`, frozen; returns the context in which the model wears it.

    A student keeps its own adapter on outside of that context; its base weights are shared. A model without one wears
    it always. Rank, alpha and modules are the folder's own.

    Raises:
        RnowError: the folder is no LoRA adapter, or one of another model, or more than an adapter.
    """
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise RnowError(f"teacher.adapter: {folder} has no {file}", "name a folder in PEFT format")
    model = _load(lm, folder)
    _check(lm, model, folder)
    if lm.peft is None:
        return nullcontext

    @contextmanager
    def worn() -> Iterator[None]:
        own = lm.peft.active_adapter
        lm.peft.base_model.set_adapter(NAME, inference_mode=True)
        try:
            yield
        finally:
            lm.peft.base_model.set_adapter(own)

    return worn


def _load(lm: CausalLM, folder: Path) -> Any:
    """The PeftModel with the adapter in it, in eval mode, its weights in float32."""
    options = {"adapter_name": NAME, "is_trainable": False, "torch_device": str(lm.device)}
    try:
        settings = peft.PeftConfig.from_pretrained(str(folder))
        if not isinstance(settings, peft.LoraConfig) or settings.modules_to_save:
            raise RnowError(
                f"teacher.adapter: {folder} is more than a LoRA adapter, or another kind of it",
                "merge it into a model and name that as teacher.path",
            )
        if lm.peft is None:
            model: Any = peft.PeftModel.from_pretrained(lm.model, str(folder), **options)
        else:
            model = lm.peft
            model.load_adapter(str(folder), **options)
    except READ_ERRORS as error:
        lines = str(error).strip().splitlines()
        raise _misfit(lm, folder, lines[0] if lines else type(error).__name__) from error
    return model.eval()


def _check(lm: CausalLM, model: Any, folder: Path) -> None:
    """RnowError for weights that fit nowhere, which peft leaves unread, and for a head that was read before."""
    expected = peft.get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    saved = load_file(folder / WEIGHTS)
    odd = sorted(expected.keys() ^ saved.keys())
    if odd:
        raise _misfit(lm, folder, f"{len(odd)} weights have no partner, such as {odd[0]}")
    if not isinstance(lm.model.get_output_embeddings(), torch.nn.Linear):
        raise _misfit(lm, folder, "it changes the output layer")


def _misfit(lm: CausalLM, folder: Path, reason: str) -> RnowError:
    hint = "use an adapter that was trained on this model, or merge it into a folder and name that as teacher.path"
    return RnowError(f"teacher.adapter: {folder} does not fit {lm.name}: {reason}", hint)
