"""A whole project in miniature, made on the spot: tokenizer, two models, data, rewards, config."""

import json
from pathlib import Path

import torch
from ruamel.yaml import YAML
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Qwen3Config
from transformers.utils.logging import disable_progress_bar

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789+= ?.\n"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
REWARDS = '''from rnow import reward


@reward
def short(args, messages) -> float:
    """1 for a reply of at most args.metadata["limit"] characters."""
    return float(len(messages[-1]["content"]) <= args.metadata["limit"])
'''


def make_tokenizer(folder: Path, characters: str = CHARACTERS) -> int:
    """Save a character tokenizer with a ChatML template; returns its size."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["user", "assistant", "system"]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *words, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("user|assistant|system|[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary)


def make_model(
    folder: Path,
    *,
    seed: int,
    layers: int = 1,
    hidden: int = 32,
    characters: str = CHARACTERS,
    positions: int = 128,
    head_dim: int = 32,
) -> Path:
    """Save a tiny Qwen3 model with its tokenizer."""
    size = make_tokenizer(folder, characters)
    config = Qwen3Config(
        vocab_size=size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head_dim,  # 32 is the smallest that vLLM takes on a CPU
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.copy_(torch.randn_like(weight) * 0.2)
    disable_progress_bar()
    model.save_pretrained(folder)
    # A folder that asks for other sampling must not change what rnow samples.
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 2, "top_k": 3, "temperature": 0.3})
    )
    return folder


def row(text: str, **extra) -> dict:
    """One line of a data file."""
    return {
        "messages": [{"role": "user", "content": text}],
        "rewards": ["short"],
        "metadata": {"limit": 6},
        **extra,
    }


def write_rows(path: Path, rows: list[dict]) -> None:
    """A jsonl file."""
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))


def tiny_config(**sections) -> dict:
    """The smallest sensible config; each keyword is merged into its section."""
    config = {
        "dataset_type": "distill",
        "data": {"batch_size": 4, "group_size": 2, "val_file": "val.jsonl"},
        "model": {"path": "./student", "qlora_rank": 4},
        "teacher": {"path": "./teacher"},
        "rollout": {"max_tokens": 8},
        "trainer": {"learning_rate": 0.01, "max_steps": 4, "save_step": 1},
        "eval": {"group_size": 1},
    }
    for name, value in sections.items():
        if isinstance(value, dict) and isinstance(config.get(name), dict):
            config[name] = {**config[name], **value}
        else:
            config[name] = value
    return {name: value for name, value in config.items() if value is not None}


def write_config(folder: Path, **sections) -> None:
    """Write config.yml into a project."""
    with (folder / "config.yml").open("w") as file:
        YAML().dump(tiny_config(**sections), file)


def make_project(folder: Path, rows: int = 12, **sections) -> Path:
    """A project that trains in a second: two random models that share a tokenizer, rows, a reward."""
    make_model(folder / "student", seed=1)
    make_model(folder / "teacher", seed=2, layers=2)
    write_rows(folder / "train.jsonl", [row(f"{i}+{i}=?") for i in range(rows)])
    write_rows(folder / "val.jsonl", [row(f"{i}+1=?") for i in range(100, 106)])
    (folder / "rewards.py").write_text(REWARDS)
    write_config(folder, **sections)
    return folder
