"""A causal language model as the engine sees it: ids -> hidden states, a head, and what trains.

Sampler, teacher and learner all compute through `CausalLM.hidden` and `CausalLM.head`, so they agree on every
detail that moves a logprob: attention implementation, dtype, softcap, adapter on or off, no dropout.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers.modeling_layers import GradientCheckpointingLayer

from rnow_core.errors import RnowError
from rnow_core.models.adapter import add_adapter
from rnow_core.models.folder import load_model
from rnow_core.models.output_head import OutputHead, probe_ids, prove_head, read_head
from rnow_core.models.packed_attention import NAME as PACKED
from rnow_core.models.packed_attention import Segments, attention_as
from rnow_core.models.packing_probe import may_pack, packs
from rnow_core.models.quantized import load_quantized


class Cache(Protocol):
    """A key/value cache as transformers' models use it (update per layer, get_seq_length, ...)."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens already held."""
        ...


class CausalLM:
    """A transformers causal LM, with a LoRA adapter (`peft` is set), trained whole, or frozen.

    Trainable parameters are float32. `autocast` is the compute dtype of a model that is trained whole in
    mixed precision; otherwise the base weights' dtype decides. Always in eval mode, also when training.
    `packable` says whether `hidden` computes conversations of one packed row as if each stood alone.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        *,
        peft: Any = None,
        autocast: torch.dtype | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.name = name
        self.model = model
        self.peft = peft
        self._decoder = model.get_decoder()
        self._autocast_dtype = autocast
        self._checkpointed = _enable_checkpointing(model, name) if gradient_checkpointing else []
        self._head = read_head(model, name)
        self._prove_head()
        self.packable = self._packs()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._head.weight_VH.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of hidden states and of the head as it is computed with."""
        return self._autocast_dtype or self._head.weight_VH.dtype

    @property
    def half_precision(self) -> bool:
        """True when logprobs carry the rounding of a 16-bit forward."""
        return self.dtype != torch.float32

    @property
    def adapter_modules(self) -> tuple[str, ...]:
        """Last names of the layers that wear the adapter (`q_proj`), sorted; empty without one, or when the
        adapter names them by a pattern.
        """
        found = (
            self.peft.peft_config[self.peft.active_adapter].target_modules if self.peft is not None else ()
        )
        return () if isinstance(found, str) else tuple(sorted({name.rpartition(".")[2] for name in found}))

    @property
    def vocab_rows(self) -> int:
        """Rows of the output head: ids at or above it have no logprob."""
        return self._head.weight_VH.shape[0]

    @property
    def context_window(self) -> int | None:
        """The most positions the model was made for, or None where its config does not say."""
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(window) if window else None

    @property
    def head(self) -> OutputHead:
        """The output head in the compute dtype; gradients reach the weights where they train."""
        head = self._head
        if self._autocast_dtype is None:
            return head
        bias = None if head.bias_V is None else head.bias_V.to(self.dtype)
        return OutputHead(head.weight_VH.to(self.dtype), bias, head.softcap, head.scale)

    def hidden(
        self,
        ids_BL: Tensor,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        segments: Segments | None = None,
    ) -> Tensor:
        """Hidden states [B, L, H] behind the final norm, in the compute dtype.

        Without a mask attention is plainly causal: right padding needs none, since no real token looks at it.
        With `past_key_values` and `use_cache` the cache is extended in place. With `segments` the one row holds
        several conversations, each of which sees itself alone (only where the model is `packable`).
        """
        packed: dict[str, Any] = {}
        if segments is not None:
            position_ids, packed = segments.position_1T, {"segments": segments}
        for layer in self._checkpointed:
            # transformers recomputes only layers in training mode; the modules inside stay in eval mode
            layer.training = torch.is_grad_enabled()
        with self._autocast(), self._attention(segments):
            output = self._decoder(
                input_ids=ids_BL,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **packed,
            )
        hidden: Tensor = output.last_hidden_state
        return hidden.to(self.dtype)

    def check_ids(self, highest: int, what: str) -> None:
        """Raise RnowError when an id lies beyond the model's rows."""
        if highest >= self.vocab_rows:
            raise RnowError(
                f"{what}: id {highest} is beyond the {self.vocab_rows} rows of {self.name}",
                "student and teacher must share one tokenizer, with a row for every id in use",
            )

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """The base weights alone, for the teacher `self`. RnowError when there is no adapter."""
        if self.peft is None:
            raise RnowError(
                f"{self.name}: teacher.path: self needs a LoRA adapter to switch off",
                "set model.qlora_rank above 0, or name another teacher",
            )
        with self.peft.disable_adapter():
            yield

    def trainable_parameters(self) -> dict[str, Parameter]:
        """What the optimizer owns, by name, in the model's order; empty for a frozen model."""
        module = self.model if self.peft is None else self.peft
        return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}

    def _autocast(self) -> Any:
        if self._autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast_dtype)

    def _attention(self, segments: Segments | None) -> AbstractContextManager[None]:
        return nullcontext() if segments is None else attention_as(self._decoder.config, PACKED)

    def _probe_ids(self) -> Tensor:
        return probe_ids(min(self.vocab_rows, self.model.get_input_embeddings().weight.shape[0]), self.device)

    def _packs(self) -> bool:
        exact = self.dtype == torch.float32
        return may_pack(self.model) and packs(self.hidden, self._probe_ids(), exact=exact)

    @torch.no_grad()
    def _prove_head(self) -> None:
        ids = self._probe_ids()
        with self._autocast():
            expected = self.model(input_ids=ids, use_cache=False).logits
        got = self.head.logits(self.hidden(ids))
        prove_head(expected, got, self.dtype, self.name, type(self.model).__name__)


def load_student(
    path: str,
    *,
    rank: int,
    alpha: float,
    target_modules: str | list[str] = "all-linear",
    dtype: str = "auto",
    device: torch.device,
    adapter: Path | None = None,
    gradient_checkpointing: bool = False,
    quantized: bool = False,
    seed: int = 0,
) -> CausalLM:
    """The model to train: a LoRA adapter of `rank` on frozen weights, or with rank 0 all weights.

    `adapter` is a PEFT folder to start from; its own rank, alpha and modules then count. The weights of
    a new adapter depend on `seed` only. `quantized`: the frozen weights are in nf4 (nothing to rank 0, which has
    none). Raises RnowError for whatever is wrong with the folders or the module names.
    """
    compute = resolve_dtype(dtype, device)
    if rank == 0:
        return _load_full(path, compute, device, adapter, gradient_checkpointing)
    model = _load_base(path, compute, device, quantized)
    peft = add_adapter(model, path, rank, alpha, target_modules, adapter, seed)
    return CausalLM(model, path, peft=peft, gradient_checkpointing=gradient_checkpointing)


def load_frozen(path: str, *, dtype: str = "auto", device: torch.device, quantized: bool = False) -> CausalLM:
    """A model that is only read, such as a teacher; `quantized`: in nf4."""
    return CausalLM(_load_base(path, resolve_dtype(dtype, device), device, quantized), path)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on the CPU; otherwise a name that torch knows."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise RnowError(f"model.dtype: unknown dtype {dtype!r}", "use auto, float32, bfloat16 or float16")
    return found


def _load_base(path: str, compute: torch.dtype, device: torch.device, quantized: bool) -> Any:
    """Frozen weights, as they are or in nf4."""
    if quantized:
        return load_quantized(path, compute, device)
    return load_model(path, compute, device).requires_grad_(False)


def _load_full(
    path: str, compute: torch.dtype, device: torch.device, adapter: Path | None, checkpointing: bool
) -> CausalLM:
    if adapter is not None:
        raise RnowError(
            f"model.adapter: {adapter} cannot be trained with model.qlora_rank 0 (all weights)",
            "set model.qlora_rank above 0, or merge the adapter into the model first",
        )
    model = load_model(path, torch.float32, device).requires_grad_(True)
    autocast = None if compute == torch.float32 else compute
    return CausalLM(model, path, autocast=autocast, gradient_checkpointing=checkpointing)


def _enable_checkpointing(model: Any, name: str) -> list[GradientCheckpointingLayer]:
    if not model.supports_gradient_checkpointing:
        hint = "set trainer.gradient_checkpointing: off"
        raise RnowError(f"{name} does not support gradient checkpointing", hint)
    config = model.get_decoder().config

    def same_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """What surrounds a layer's forward, and its recomputation, which comes when `hidden` is long over."""
        return nullcontext(), attention_as(config, config._attn_implementation)

    # nothing random runs inside a layer, so its random state need not be kept for the recomputation
    model.gradient_checkpointing_enable(
        {"use_reentrant": False, "preserve_rng_state": False, "context_fn": same_attention}
    )
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        if isinstance(getattr(layer, "dropout", None), float):
            layer.dropout = 0.0
    return layers
