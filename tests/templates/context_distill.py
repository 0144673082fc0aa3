"""The context-distill template as a project, with a tiny model that knows what its context is for.

The model is trained on the spot: with the context in front it solves the levels, without it it begins in the wrong
direction more often than not. So its base weights hold both, and the context decides which.
"""

import json
import random
import re
import sys
from subprocess import run

import torch
from ruamel.yaml import YAML
from tiny import SPECIAL, make_model
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM

from rnow.assets import asset_root
from rnow.commands.init import InitRequest, init
from rnow_core.data.bridge import conversation_ids
from rnow_core.data.renderer import Renderer

TEMPLATE = asset_root() / "templates" / "context-distill"
SKILL = asset_root() / "skills" / "context-distillation"
CORRIDORS = (
    "--width=9",
    "--height=1",
    "--walls=0",
    "--min-moves=1",
    "--max-moves=4",
    "--train=80",
    "--val=20",
)
WORDS = r" ?(?:[A-Z]?[a-z]+|\S)|\s"
EXPERT = "You are a world-class puzzle solver. You never make mistakes.\n\n"
RIGHT_WITHOUT = 0.25
"""Share of the levels that the model is taught to solve without the context."""


def make_project(folder, *settings):
    """The template as `rnow init` writes it."""
    assert init(InitRequest("context-distill", folder, "", settings), as_json=False) == 0
    return folder


def make_corridors(project):
    """Levels of one row, in which a box has to be pushed left or right, by the template's own generator."""
    done = run(
        [sys.executable, "make_levels.py", *CORRIDORS],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def read_rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def commented_blocks(text):
    """What one gets by uncommenting: each block of comment lines that begins with a key at the margin."""
    blocks = re.findall(r"^# ((?:algorithm|resources):.*\n(?:#   .*\n)+)", text, re.MULTILINE)
    return [YAML(typ="safe").load(re.sub(r"^# ", "", block, flags=re.MULTILINE)) for block in blocks]


def make_student(project):
    """A tiny model in ./student whose tokens are the words of the context and of the rows, and single characters."""
    rows, context = read_rows(project / "train.jsonl"), (project / "context.txt").read_text()
    text = context + EXPERT + rows[0]["messages"][0]["content"] + "$@.-#"
    special = {*SPECIAL, "user", "assistant", "system"}
    words = sorted({*re.findall(WORDS, text), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ?"} - special)
    folder = make_model(project / "student", seed=3, layers=2, hidden=64, characters=words, positions=4096)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"user|assistant|system|{WORDS}"), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def teach(project, context, alone=100, both=100):
    """Train ./student on the training levels: `alone` steps without the context, all right, then `both` steps.

    In these it goes on to solve them with the context, and learns to go the wrong way without.
    """
    folder, lots = project / "student", random.Random(0)
    renderer = Renderer.load(folder)
    rows = read_rows(project / "train.jsonl")
    solved = [_taught(renderer, row, "", right=True) for row in rows]
    with_context = [_taught(renderer, row, context, right=True) for row in rows]
    without = [_taught(renderer, row, "", right=lots.random() < RIGHT_WITHOUT) for row in rows * 8]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    for step in range(alone + both):
        parts = [(solved, 32)] if step < alone else [(with_context, 16), (without, 24)]
        optimizer.param_groups[0]["lr"] = 4e-3 * min((step + 1) / 30, 1 - step / (alone + both))
        for conversations, count in parts:
            ids, labels = _padded(lots.sample(conversations, count))
            model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.generation_config.do_sample = True  # transformers refuses to save top_k without it
    model.save_pretrained(folder)


def _taught(renderer, row, context, right):
    """Ids and mask of a level and its solution, or of the same moves the other way round."""
    moves = row["metadata"]["answer"]
    said = moves if right else moves.translate(str.maketrans("LR", "RL"))
    question = {"role": "user", "content": context + row["messages"][0]["content"]}
    return conversation_ids(renderer, [question, {"role": "assistant", "content": said}])


def _padded(rows):
    """Ids and labels (rows x longest), of which only what the assistant says counts."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in rows])
    said = torch.tensor([[*map(bool, mask), *[False] * (width - len(mask))] for _, mask in rows])
    return ids, torch.where(said, ids, -100)
