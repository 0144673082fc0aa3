"""A frozen base in 4 bits (nf4, as in QLoRA, arXiv:2305.14314) through bitsandbytes, and what it is in plain numbers.

Every linear layer but the output head is quantised in blocks of 64 weights with doubly quantised scales; embeddings,
norms and the head keep the compute dtype. A forward multiplies by the dequantised weights, so the model is exactly
the plain one that `plain_model` makes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor

from rnow_core.errors import RnowError
from rnow_core.models.extras import require_quantization_packages
from rnow_core.models.folder import load_model

BLOCK = 64
"""Weights that share a scale."""

LEAST_SHARE = 0.5
"""Of the weights outside of embeddings and head: with fewer in 4 bits, nf4 does not do what it is asked for."""

WRAPPED = ".base_layer"
"""What peft puts into the name of a layer that wears an adapter."""


def load_quantized(path: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A transformers causal LM in eval mode on the device, frozen, its linear layers in nf4.

    Args:
        path: model folder or Hugging Face id, in any precision.
        dtype: of everything else, and of the products.
        device: where it is quantised and stays.

    Raises:
        EnvironmentMissing: bitsandbytes is not installed.
        RnowError: the folder is broken, or nf4 does not fit the model.
    """
    require_quantization_packages()
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = load_model(path, dtype, device, settings).requires_grad_(False)
    _check_fit(model, path)
    for _, layer in quantized_layers(model):
        # bitsandbytes would repack the weights for a bf16 kernel of some CPUs in the first forward without gradients:
        # other numbers, and none of its later outputs would have a gradient
        layer.support_avx512bf16_for_cpu = False
    return model


def quantized_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and module of each layer in 4 bits."""
    bitsandbytes = _import_bitsandbytes()
    found = ((name, layer) for name, layer in model.named_modules())
    return ((name, layer) for name, layer in found if isinstance(layer, bitsandbytes.nn.Linear4bit))


def plain_weight(layer: Any) -> Tensor:
    """The weight [out, in] that a layer in 4 bits multiplies by."""
    weight: Tensor = _import_bitsandbytes().functional.dequantize_4bit(
        layer.weight.data, layer.weight.quant_state
    )
    return weight


def fingerprint(model: Any) -> str:
    """A hash of every frozen weight of a quantised model as it is stored, names and dtypes included."""
    digest = hashlib.sha256()
    layers = dict(quantized_layers(model))
    for name, weight in _own_weights(model):
        layer = layers.get(name.removesuffix(".weight"))
        parts = [weight] if layer is None else [weight.data, *_scales(layer.weight.quant_state)]
        for part in parts:
            digest.update(f"{_plain_name(name)} {part.dtype} {tuple(part.shape)}\n".encode())
            digest.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def plain_model(model: Any) -> Any:
    """A model of the same architecture on the CPU whose weights are the dequantised ones, without adapter.

    `model` is `load_quantized`'s, and may wear an adapter since. Takes main memory for all weights.
    """
    layers, dtype = dict(quantized_layers(model)), model.get_input_embeddings().weight.dtype
    state = {}
    for name, weight in _own_weights(model):
        layer = layers.get(name.removesuffix(".weight"))
        plain = weight if layer is None else plain_weight(layer).to(dtype)
        state[_plain_name(name)] = plain.detach().cpu()
    config = copy.deepcopy(model.config)
    del config.quantization_config
    with torch.device("meta"):
        made = type(model)(config)
    made.load_state_dict(state, strict=False, assign=True)
    made.tie_weights()
    empty = [name for name, weight in made.named_parameters() if weight.is_meta]
    assert not empty, f"the plain model lacks {empty[:3]}"
    return made


def _own_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters and saved buffers that are not of an adapter, by name."""
    for path, module in model.named_modules():
        buffers = module._buffers.keys() - module._non_persistent_buffers_set
        own = {**module._parameters, **{key: module._buffers[key] for key in sorted(buffers)}}
        for key, weight in own.items():
            if weight is not None and "lora_" not in path:
                yield f"{path}.{key}", weight


def _plain_name(name: str) -> str:
    return name.replace(WRAPPED, "")


def _scales(state: Any) -> list[Tensor]:
    """The tensors that turn codes into weights."""
    nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
    return [state.absmax, state.code, *nested]


def _check_fit(model: Any, path: str) -> None:
    """RnowError where blocks would cross rows (bitsandbytes then reads wrong scales on a CPU), or little is in nf4."""
    layers = list(quantized_layers(model))
    odd = sorted({layer.in_features for _, layer in layers if layer.in_features % BLOCK})
    if odd:
        raise RnowError(
            f"{path}: nf4 needs layers whose inputs are a multiple of {BLOCK}, and it has some with {odd[0]}",
            "leave quantization out for this model",
        )
    inside = sum(layer.in_features * layer.out_features for _, layer in layers)
    ends = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    plain = sum(
        weight.numel()
        for weight in model.parameters()
        if weight.is_floating_point() and id(weight) not in ends
    )
    if inside < LEAST_SHARE * (inside + plain):
        share = inside / max(1, inside + plain)
        raise RnowError(
            f"{path}: nf4 covers linear layers, which hold only {share:.0%} of this model's weights",
            "leave quantization out; experts of a mixture are not linear layers to bitsandbytes",
        )


def _import_bitsandbytes() -> Any:
    """The package, which only quantised models need."""
    import bitsandbytes

    return bitsandbytes
