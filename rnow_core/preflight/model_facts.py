"""What a model's config.json says about its sizes, read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.errors import Finding, FindingsError

DEFAULT_WINDOW = 4096
"""Context window of a model whose config does not say."""

NAMES = {
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len"),
}
"""A size -> what families call it in config.json."""

REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers")
OTHER_TASKS = ("MaskedLM", "Classification", "QuestionAnswering", "RewardModel", "MultipleChoice")


@dataclass(frozen=True)
class ModelFacts:
    """The figures that the plan needs. `parameters` is exact where the weights are at hand, else an estimate."""

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


def read_config(file: Path, path: str, key: str) -> ModelFacts:
    """The facts in a config.json.

    Args:
        file: the config.json.
        path: the model as the user names it, for messages.
        key: the config key that named it (`teacher.path`).

    Raises:
        FindingsError: RN301, the file is broken or describes no causal language model.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _not_a_model(
            key, f"{file} cannot be read: {error}", "save or download the model again"
        ) from None
    if not isinstance(config, dict):
        raise _not_a_model(key, f"{file} holds no JSON object", "save or download the model again")
    task = _other_task(config)
    if task:
        message = f"'{path}' is a model of another kind: {task}"
        raise _not_a_model(key, message, "name a causal language model (text generation)")
    text = config.get("text_config")
    return _facts(path, text if isinstance(text, dict) else config, key)


def _other_task(config: Mapping[str, Any]) -> str | None:
    """What config.json says the model is, if that cannot generate text token by token."""
    if config.get("is_encoder_decoder"):
        return "an encoder-decoder"
    names = [name for name in config.get("architectures") or () if isinstance(name, str)]
    return next((name for name in names if name.endswith(OTHER_TASKS)), None)


def _facts(path: str, config: Mapping[str, Any], key: str) -> ModelFacts:
    sizes = {name: _size(config, name) for name in NAMES}
    missing = [name for name in REQUIRED if sizes[name] is None]
    if missing:
        message = (
            f"'{path}' is no causal language model that rnow knows: config.json lacks {', '.join(missing)}"
        )
        raise _not_a_model(key, message, "name a text model in the format of Hugging Face transformers")
    hidden, layers, rows = (sizes[name] or 0 for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    heads = sizes["num_attention_heads"] or 1
    head_dim = sizes["head_dim"] or hidden // heads
    kv_heads = sizes["num_key_value_heads"] or heads
    intermediate = sizes["intermediate_size"] or 4 * hidden
    embeddings = rows * hidden * (1 if config.get("tie_word_embeddings", True) else 2)
    per_layer = 2 * hidden * head_dim * (heads + kv_heads) + 3 * hidden * intermediate
    return ModelFacts(
        path=path,
        model_type=str(config.get("model_type", "unknown")),
        vocab_rows=rows,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        context_window=sizes["max_position_embeddings"] or DEFAULT_WINDOW,
        parameters=embeddings + layers * per_layer,
    )


def _size(config: Mapping[str, Any], name: str) -> int | None:
    """The first positive whole number among the names of a size."""
    values = (config.get(spelling) for spelling in NAMES[name])
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None)


def _not_a_model(key: str, message: str, hint: str) -> FindingsError:
    return FindingsError([Finding("RN301", "error", message, hint, path=key)])
