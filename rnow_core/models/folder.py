"""Reading a model folder (or a Hugging Face id) with transformers: what can go wrong, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from rnow_core.errors import RnowError
from rnow_core.models.device import memory_errors

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_model_path(path: str) -> None:
    """Raise RnowError when `path` is neither a model folder nor shaped like a Hugging Face id."""
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RnowError(
                f"{path} is a folder, but not a model folder: it has no config.json",
                "model.path must name a folder in Hugging Face format, or a model id such as Qwen/Qwen3-0.6B",
            )
    elif folder.exists():
        hint = "name the folder that holds config.json"
        raise RnowError(f"{path} is a file, expected a model folder", hint)
    elif not HUB_ID.fullmatch(path) or path.startswith("."):
        raise RnowError(f"{path}: there is no such model folder", "check the path, or use a Hugging Face id")


@contextmanager
def quietly() -> Iterator[None]:
    """No bars and no notes of transformers' own: they would tear the command line's display."""
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


def load_model(path: str, dtype: torch.dtype, device: torch.device, quantization: Any = None) -> Any:
    """A transformers causal LM in eval mode on the device, every weight read from the folder.

    `quantization`: transformers' settings; such a model is quantised while it is read, weight by weight.
    Raises RnowError for a path without a model, a broken folder, and weights that the folder lacks
    (transformers would fill those with random numbers and a warning).
    """
    check_model_path(path)
    hint = "use a smaller model, or free the device"
    with memory_errors(f"loading {path}", hint), quietly():
        try:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                attn_implementation=_attention(path),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **({"quantization_config": quantization, "device_map": {"": device}} if quantization else {}),
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise RnowError(f"{path}: could not load the model: {first}", _load_hint(path)) from error
        check_complete(path, info)
        return model.eval().to(device)


def save_model(model: Any, folder: Path) -> None:
    """Write a whole model into an existing folder, readable by transformers."""
    with quietly(), _savable_generation_config(model):
        model.save_pretrained(folder)


@contextmanager
def _savable_generation_config(model: Any) -> Iterator[None]:
    """Transformers reads a contradictory generation_config.json, but refuses to write it: then keep its ids only."""
    found = model.generation_config
    try:
        found.validate(strict=True)
    except ValueError:
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        model.generation_config = transformers.GenerationConfig(
            **{name: getattr(found, name) for name in ids}
        )
    try:
        yield
    finally:
        model.generation_config = found


def _attention(path: str) -> str:
    """`sdpa`, except where the model bends its attention scores (Gemma 2), which torch's kernel leaves out."""
    config = transformers.AutoConfig.from_pretrained(path).get_text_config()
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def _load_hint(path: str) -> str:
    if Path(path).is_dir():
        return "the folder must hold config.json and the weights of one causal language model"
    return "there is no such folder here: check the id, the network, and HF_TOKEN for gated models"


def check_complete(path: str, info: dict[str, Any]) -> None:
    """Raise RnowError for weights that transformers, by its loading info, did not find or found in another shape."""
    missing = sorted(str(key) for key in info.get("missing_keys", ()))
    mismatched = sorted(str(key) for key in info.get("mismatched_keys", ()))
    if missing or mismatched:
        bad = missing + mismatched
        raise RnowError(
            f"{path}: {len(bad)} weights are missing or not shaped as config.json says: {', '.join(bad[:3])}",
            "the folder is incomplete or mixed up: download or save the model again",
        )
