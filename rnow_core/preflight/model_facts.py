"""What a model folder says about itself, read without torch: sizes, context window, bytes of weights."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.errors import Finding, FindingsError


@dataclass(frozen=True)
class ModelFacts:
    """The figures that the plan needs. `parameters` is exact for a local folder, estimated for a hub id."""

    path: str
    model_type: str
    vocab_rows: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    context_window: int
    parameters: int


def read_model_facts(path: str, project_dir: Path, key: str) -> ModelFacts:
    """Read `config.json` of a folder or a Hugging Face id.

    Args:
        path: as in config.yml; a relative folder is looked up from the project.
        project_dir: the project's folder.
        key: the config key that named the model, for messages (`teacher.path`).

    Raises:
        FindingsError: RN301 when there is no such folder, or it is not a model; RN302 for a hub id that cannot be
            fetched.
    """
    folder = local_folder(path, project_dir)
    config_file = folder / "config.json" if folder else _from_hub(path, key)
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise _problem(
            "RN301",
            key,
            f"'{path}' is not a model folder: {config_file} cannot be read ({error})",
            "name a folder written by save_pretrained, or a Hugging Face id",
        ) from None
    facts = _facts(path, config.get("text_config", config), key)
    exact = weight_count(folder) if folder else None
    return facts if exact is None else ModelFacts(**{**facts.__dict__, "parameters": exact})


def local_folder(path: str, project_dir: Path) -> Path | None:
    """The folder that `path` names, or None when it has the form of a hub id.

    Raises:
        FindingsError: RN301, the path can only be a folder and is not there.
    """
    folder = (project_dir / Path(path).expanduser()).resolve()
    if folder.is_dir():
        return folder
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise FindingsError(
            [Finding("RN301", "error", f"model folder '{path}' does not exist", f"looked for {folder}")]
        )
    return None


def weight_count(folder: Path) -> int | None:
    """Number of weights in the folder's safetensors files, from their headers; None when there are none."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header: dict[str, Any] = json.loads(stream.read(size))
        total += sum(_elements(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total or None


def _elements(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _facts(path: str, config: dict[str, Any], key: str) -> ModelFacts:
    missing = [name for name in ("vocab_size", "hidden_size", "num_hidden_layers") if name not in config]
    if missing:
        raise _problem(
            "RN301",
            key,
            f"'{path}' is not a causal language model: config.json lacks {', '.join(missing)}",
            "name the folder of a text model",
        )
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config.get("num_attention_heads", 1)
    head_dim = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads
    intermediate = config.get("intermediate_size") or 4 * hidden
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings", True) else 2)
    per_layer = 2 * hidden * head_dim * (heads + kv_heads) + 3 * hidden * intermediate
    return ModelFacts(
        path=path,
        model_type=str(config.get("model_type", "unknown")),
        vocab_rows=config["vocab_size"],
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        context_window=int(config.get("max_position_embeddings") or 4096),
        parameters=embeddings + layers * per_layer,
    )


def _from_hub(path: str, key: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(path, "config.json"))
    except Exception as error:  # the hub library raises many kinds; each means: not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _problem(
            "RN302",
            key,
            f"'{path}' is no folder here and cannot be read from the Hugging Face hub: {reason}",
            "check the name and the network, log in with `hf auth login` for a gated model, or give a folder",
        ) from None


def _problem(code: str, key: str, message: str, hint: str) -> FindingsError:
    return FindingsError([Finding(code, "error", message, hint, path=key)])
