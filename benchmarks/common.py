"""Shared by the benchmarks: what ran where, and a project of a given size with random weights."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from ruamel.yaml import YAML
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Qwen3Config
from transformers.utils import logging as transformers_logging

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """A project's shape: hidden size and layers of both models, vocabulary, and what a step samples."""

    student: tuple[int, int]
    teacher: tuple[int, int]
    vocabulary: int
    batch_size: int
    group_size: int
    prompt_characters: int
    max_tokens: int
    learning_rate: float = 1e-3


def hardware() -> dict[str, Any]:
    """Processor, threads, GPU and versions, for the result line."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def make_project(folder: Path, size: Size, steps: int) -> Path:
    """A project with random weights whose replies run to max_tokens, for `steps` steps."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name, shape, seed in (("student", size.student, 1), ("teacher", size.teacher, 2)):
        _save_tokenizer(folder / name, size.vocabulary)
        _save_model(folder / name, shape, size.vocabulary, seed)
    rows = [
        {"messages": [{"role": "user", "content": _text(row, size.prompt_characters)}]}
        for row in range(size.batch_size * steps)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "dataset_type": "distill",
        "data": {"batch_size": size.batch_size, "group_size": size.group_size},
        "model": {"path": "./student", "qlora_rank": 32},
        "teacher": {"path": "./teacher"},
        "rollout": {"max_tokens": size.max_tokens},
        "trainer": {"learning_rate": size.learning_rate, "max_steps": steps},
    }
    with (folder / "config.yml").open("w") as file:
        YAML().dump(config, file)
    return folder


def _text(row: int, length: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(letters[(row * 7 + position * (row + 3)) % 26] for position in range(length))


def _save_tokenizer(folder: Path, vocabulary: int) -> None:
    folder.mkdir(parents=True)
    known = [*SPECIAL, "user", "assistant", "\n", "?", *"abcdefghijklmnopqrstuvwxyz"]
    tokens = known + [f"<{number}>" for number in range(vocabulary - len(known))]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("user|assistant|[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _save_model(folder: Path, shape: tuple[int, int], vocabulary: int, seed: int) -> None:
    hidden, layers = shape
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=2,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
