"""Sizes read from files equal those of the models that transformers loads."""

from pathlib import Path

import peft
import pytest
import torch
from tiny import make_model
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig

from rnow_core.preflight.memory import Sizes, cache_bytes, lora_parameters, memory_plan
from rnow_core.preflight.model_facts import read_config
from rnow_core.preflight.weight_files import count_weights

LLAMA = LlamaConfig(
    vocab_size=96,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)


def real_count(model):
    return sum(weight.numel() for weight in model.parameters())


def save(config, folder: Path, **options) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, **options)
    return model


def facts_of(folder):
    return read_config(folder / "config.json", "./model", "model.path")


@pytest.mark.parametrize("layers", [1, 2])
def test_counts_of_a_tied_model(tmp_path, layers):
    folder = make_model(tmp_path / "model", seed=0, layers=layers)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert count_weights(folder, "./model", "model.path") == real_count(model)


@pytest.mark.parametrize("shard", ["1GB", "40kB"])
def test_counts_of_an_untied_model_whole_and_in_shards(tmp_path, shard):
    model = save(LLAMA, tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "40kB")
    assert count_weights(tmp_path, "./model", "model.path") == real_count(model)


def test_files_that_transformers_does_not_load_are_not_counted(tmp_path):
    model = save(LLAMA, tmp_path)
    (tmp_path / "consolidated.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    assert count_weights(tmp_path, "./model", "model.path") == real_count(model)


def test_the_older_weight_format_is_accepted_without_a_count(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert count_weights(tmp_path, "./model", "model.path") is None


def test_facts_of_a_config(tmp_path):
    model = save(LLAMA, tmp_path)
    facts = facts_of(tmp_path)
    assert (facts.vocab_rows, facts.hidden_size, facts.layers) == (96, 48, 3)
    assert (facts.heads, facts.kv_heads, facts.head_dim) == (4, 2, 12)
    assert (facts.intermediate_size, facts.context_window) == (80, 64)
    norms = real_count(model) - facts.parameters
    assert 0 < norms == (2 * 3 + 1) * 48


def test_a_family_with_names_of_its_own(tmp_path):
    AutoConfig.for_model("gpt2")
    save(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=50), tmp_path)
    facts = facts_of(tmp_path)
    assert (facts.hidden_size, facts.layers, facts.heads, facts.context_window) == (32, 2, 4, 50)


def test_a_text_model_inside_another_config(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "gemma3", "text_config": {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 2}}'
    )
    assert facts_of(tmp_path).vocab_rows == 9


@pytest.mark.parametrize("rank", [1, 4])
def test_adapter_parameters_are_those_of_peft(tmp_path, rank):
    folder = make_model(tmp_path / "model", seed=0, layers=2)
    config = peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    trained, _ = wrapped.get_nb_trainable_parameters()
    assert lora_parameters(facts_of(folder), rank) == trained


def test_cache_bytes_are_those_of_a_real_cache(tmp_path):
    model = save(LLAMA, tmp_path)
    cache = model(input_ids=torch.arange(10)[None]).past_key_values
    measured = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    sizes = Sizes(rank=4, on_gpu=False, micro_batch_tokens=64, checkpointing=False)
    assert 10 * cache_bytes(facts_of(tmp_path), None, sizes) == measured


def test_the_memory_plan_adds_up_and_grows_with_what_costs_memory(tmp_path):
    save(LLAMA, tmp_path)
    facts = facts_of(tmp_path)

    def total(teacher=None, kv_tokens=100, **changes):
        sizes = Sizes(
            **{"rank": 4, "on_gpu": False, "micro_batch_tokens": 64, "checkpointing": False, **changes}
        )
        plan = memory_plan(facts, teacher, sizes, kv_tokens)
        assert plan["total"] == sum(value for name, value in plan.items() if name != "total")
        return plan["total"]

    assert total() < total(teacher=facts)
    assert total() < total(kv_tokens=200)
    assert total() < total(rank=8)
    assert total() < total(rank=0)
    assert total() < total(micro_batch_tokens=128)
    assert total() > total(checkpointing=True)
    assert total() > total(on_gpu=True)
