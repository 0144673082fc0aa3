"""LoRA adapters through peft: making one, reading one, and writing its folder reproducibly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rnow_core.errors import RnowError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


def add_adapter(
    model: Any,
    name: str,
    rank: int,
    alpha: float,
    target_modules: str | list[str],
    folder: Path | None,
    seed: int,
) -> Any:
    """Put a trainable float32 LoRA adapter into `model` (in place) and return the PeftModel.

    A new one changes nothing yet, its random half drawn from `seed` alone; with `folder` that one is read.
    """
    if folder is not None:
        wrapped = _read_adapter(model, name, folder)
    else:
        wrapped = _new_adapter(model, name, rank, alpha, target_modules, seed)
    for weight in wrapped.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return wrapped.eval()


def _new_adapter(
    model: Any, name: str, rank: int, alpha: float, target_modules: str | list[str], seed: int
) -> Any:
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=target_modules, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/lora-init".encode()).digest()[:8], "big"))
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise RnowError(
                f"model.target_modules: {target_modules} does not fit {name}: {_first_line(error)}",
                f"use all-linear, or names among: {', '.join(_linear_names(model))}",
            ) from error


def _linear_names(model: Any) -> list[str]:
    layers = (path for path, layer in model.named_modules() if isinstance(layer, torch.nn.Linear))
    return sorted({path.rpartition(".")[2] for path in layers} - {"lm_head"})


def _read_adapter(model: Any, name: str, folder: Path) -> Any:
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise RnowError(f"model.adapter: {folder} has no {file}", "name a folder in PEFT format")
    try:
        wrapped = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except READ_ERRORS as error:
        raise _misfit(folder, name, _first_line(error)) from error
    if not isinstance(wrapped.peft_config["default"], peft.LoraConfig):
        raise RnowError(f"model.adapter: {folder} is not a LoRA adapter", "only LoRA adapters can be trained")
    expected = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys()
    saved = {key for key in load_file(folder / WEIGHTS) if "lora_" in key or key in expected}
    if odd := sorted(expected ^ saved):
        # peft leaves weights without a partner at their start, or unread, with no more than a warning
        raise _misfit(folder, name, f"{len(odd)} weights have no partner, such as {odd[0]}")
    return wrapped


def _misfit(folder: Path, name: str, reason: str) -> RnowError:
    hint = "use an adapter that was trained on this model"
    return RnowError(f"model.adapter: {folder} does not fit {name}: {reason}", hint)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def write_adapter(wrapped: Any, folder: Path, base: str) -> None:
    """Write the adapter in PEFT format into an existing folder; equal weights give equal bytes.

    peft's own `save_pretrained` writes sets in hash order and a model card, so its files differ between runs.
    """
    state = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    tensors = {key: state[key].detach().cpu().contiguous() for key in sorted(state)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = wrapped.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    raise TypeError(f"cannot write {type(value).__name__} into {CONFIG}")


def restore_adapter(wrapped: Any, folder: Path) -> None:
    """Copy saved weights into an adapter of the same shape, in place. RnowError when they do not fit."""
    state = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    saved = load_file(folder / WEIGHTS)
    copy_tensors(saved, state, folder / WEIGHTS)


@torch.no_grad()
def copy_tensors(saved: dict[str, torch.Tensor], into: dict[str, torch.Tensor], file: Path) -> None:
    """Copy every tensor of `saved` into the one of the same name; names and shapes must be the same."""
    shapes = {name: tuple(tensor.shape) for name, tensor in into.items()}
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if shapes != found:
        odd = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise RnowError(
            f"{file}: {len(odd)} weights do not fit the model, such as {odd[0]}: "
            f"expected {shapes.get(odd[0])}, got {found.get(odd[0])}",
            "resume with the model and the rank that the run was started with",
        )
    for name, tensor in saved.items():
        into[name].copy_(tensor)
