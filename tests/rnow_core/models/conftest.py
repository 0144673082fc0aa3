"""Tiny models, made on the spot and saved as ordinary Hugging Face folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from learner_reference import TAU, student
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)
from transformers.utils.logging import disable_progress_bar

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.objective import PolicyObjective
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.optimizer import OptimizerSettings

OBJECTIVE = PolicyObjective(adv_tau=1.0, teacher_tau=TAU, student_tau=TAU)

GEMMA = {"final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8, "sliding_window": 8}
RECURRENT = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
CONFIGS = {
    "qwen2-window": (Qwen2Config, {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {}),
    "llama": (LlamaConfig, {"tie_word_embeddings": False}),
    "mistral": (MistralConfig, {"sliding_window": 8}),
    "gemma": (GemmaConfig, {}),
    "gemma2": (Gemma2Config, GEMMA),
    "gemma2-bent": (Gemma2Config, GEMMA | {"attn_logit_softcapping": 0.5}),
    "gemma3": (Gemma3TextConfig, GEMMA),
    "granite": (GraniteConfig, {"logits_scaling": 4.0}),
    "cohere": (CohereConfig, {"logit_scale": 0.25}),
    "qwen3-next": (Qwen3NextConfig, RECURRENT),
    "lfm2": (Lfm2Config, {"layer_types": ["conv", "full_attention"]}),
}


def tiny_config(
    kind: str = "qwen3", *, vocab: int = 97, hidden: int = 32, layers: int = 2
) -> PreTrainedConfig:
    """A config of the architecture `kind` with a model of a few thousand weights."""
    config_class, extra = CONFIGS[kind]
    return config_class(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **({"tie_word_embeddings": True} | extra),
    )


def save_model(config: PreTrainedConfig, folder: Path, seed: int = 0) -> Path:
    """Save a model with random weights, large enough that its distributions are not flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.copy_(torch.randn_like(weight) * 0.15)
    disable_progress_bar()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`model_folder(kind="qwen3", seed=0, **sizes)` -> path of a saved tiny model; made once per session."""
    root = tmp_path_factory.mktemp("models")

    def make(kind: str = "qwen3", seed: int = 0, **sizes: int) -> str:
        name = "-".join([kind, str(seed), *(f"{key}{value}" for key, value in sorted(sizes.items()))])
        if not (root / name).is_dir():
            save_model(tiny_config(kind, **sizes), root / name, seed)
        return str(root / name)

    return make


@pytest.fixture
def learner(model_folder: Callable[..., str]):
    """`learner(**changes)`: an HFLearner; `lm`, `tokens` (micro_batch_tokens) and settings can be changed."""
    device = DeviceThread(threads=1)

    def make(
        lm: CausalLM | None = None,
        tokens: int | None = None,
        goal: Callable[..., object] = OBJECTIVE,
        **changes: object,
    ) -> HFLearner:
        settings = OptimizerSettings(**({"learning_rate": 1e-2, "total_steps": 10} | changes))
        return HFLearner(
            lm or student(model_folder()),
            device,
            objective=goal,
            token_logprobs=token_logprobs,
            settings=settings,
            micro_batch_tokens=tokens,
        )

    yield make
    device.close()
