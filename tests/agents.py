"""A tiny agent project: a tokenizer whose template shows tools, models that can be taught a conversation, tools."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import torch
from tiny import CHARACTERS, make_model, tiny_config, write_rows
from transformers import AutoModelForCausalLM

from rnow_core.data.bridge import conversation_ids
from rnow_core.data.renderer import Renderer

ALPHABET = "".join(dict.fromkeys(CHARACTERS + "ABCDEFGHIJKLMNOPQRSTUVWXYZ\"{}[]<>_/:,;()*-\\#'!$%&@|~^`"))
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n"
    "{% for tool in tools %}{{ tool.function.name }}: {{ tool.function.description }}\n"
    "{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>"
    "{% else %}{{ m.content or '' }}{% for call in m.tool_calls or [] %}"
    '<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = '''from rnow import tool


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


@tool
def fail(text: str) -> str:
    """Always fails."""
    raise ValueError("no " + text)
'''


def call_text(name: str, **arguments: object) -> str:
    """A call as the template writes it."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def tool_call(name: str, **arguments: object) -> dict:
    """A call in a message."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def make_agent_model(folder: Path, *, seed: int = 1, hidden: int = 64, layers: int = 2) -> Path:
    """A tiny model whose template shows tools and writes Hermes calls."""
    make_model(folder, seed=seed, layers=layers, hidden=hidden, characters=ALPHABET, positions=1024)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": TEMPLATE}))
    return folder


def teach(folder: Path, conversations: list[list[dict]], tools: list[dict], steps: int = 100) -> None:
    """Train the model in a folder to say its part of the conversations, from the ids that rollouts would have."""
    renderer = Renderer.load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = [conversation_ids(renderer, messages, tools=tools) for messages in conversations]
    width = max(len(ids) for ids, _ in rows)
    ids_RT = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in rows])
    labels_RT = torch.full_like(ids_RT, -100)
    for row, (ids, mask) in enumerate(rows):
        for position, trained in enumerate(mask):
            if trained:
                labels_RT[row, position] = ids[position]
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.99))
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids_RT, labels=labels_RT).loss.backward()
        optimizer.step()
    model.generation_config.do_sample = True  # transformers refuses to save top_k without it
    model.save_pretrained(folder)


def agent_rows(n: int = 8) -> list[dict]:
    """Rows that ask for a sum."""
    return [{"messages": [{"role": "user", "content": f"{i}+{i + 1}=?"}], "tools": ["add"]} for i in range(n)]


def processes_in(folder: Path) -> list[psutil.Process]:
    """The processes that work in a folder or below it, as those of a project's tools do."""
    found = psutil.process_iter(["cwd"])
    return [process for process in found if (process.info["cwd"] or "").startswith(str(folder))]


def write_agent_project(folder: Path, rows: list[dict] | None = None, **sections: object) -> dict:
    """tools.py, rows and the config of an agent project; models are made apart. Returns the config."""
    (folder / "tools.py").write_text(TOOLS)
    write_rows(folder / "train.jsonl", rows or agent_rows())
    defaults = {"data": {"val_file": None}, "rollout": {"max_turns": 3, "max_tokens": 100}, "eval": None}
    for name, values in sections.items():
        defaults[name] = {**(defaults.get(name) or {}), **values} if isinstance(values, dict) else values
    return tiny_config(**defaults)
