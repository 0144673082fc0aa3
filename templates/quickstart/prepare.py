"""Makes everything that this project needs, from nothing: a tokenizer, two small models, and the data.

    python prepare.py            # makes ./teacher, ./student, train.jsonl and val.jsonl; under a minute on two cores
    python prepare.py --force    # makes them again

The task is to reverse a string: the right reply to `reverse KQZMAB` is `BAMZQK`. The teacher is trained until it is
nearly always right. The student, a smaller model, is stopped early: it has the idea, but four of five replies have a
mistake. `rnow run` teaches it the rest, from the teacher's logprobs alone. Your own project starts from real models.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

LETTERS = 6  # in each string
HELD_OUT = 512  # questions in val.jsonl: neither model is ever trained on them
PROMPTS = 15360  # questions in train.jsonl: the run's student answers them itself
LESSONS = 32768  # questions with the right reply, to train the two models here
OUTPUTS = ("teacher", "student", "train.jsonl", "val.jsonl")

PAD, END = "<|endoftext|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """A model's size, and when its training ends: at a held-out accuracy from `low` to `high`.

    `accept` is what has to be true in the end of the saved model, when it answers each held-out question once.
    """

    name: str
    hidden: int
    layers: int
    seed: int
    low: float
    high: float
    accept: tuple[float, float]


TEACHER = Recipe("teacher", hidden=128, layers=3, seed=1, low=0.95, high=1.0, accept=(0.80, 1.0))
STUDENT = Recipe("student", hidden=96, layers=2, seed=2, low=0.16, high=0.19, accept=(0.10, 0.25))
LEARNING_RATE, WARMUP, BATCH, CHECK_EVERY, MAX_STEPS = 3e-3, 30, 64, 10, 250


def answer(question: str) -> str:
    """The right reply: the question's last word backwards."""
    return question.split()[-1][::-1]


def make_questions(count: int, generator: random.Random, taken: set[str]) -> list[str]:
    """`count` questions that are not in `taken`; they are added to it."""
    questions: list[str] = []
    while len(questions) < count:
        question = "reverse " + "".join(generator.choices(string.ascii_uppercase, k=LETTERS))
        if question not in taken:
            taken.add(question)
            questions.append(question)
    return questions


def write_rows(path: Path, questions: Sequence[str]) -> None:
    """One JSON line a question. The answer is metadata for rewards.py: no model sees it."""
    with path.open("w", encoding="utf-8") as file:
        for question in questions:
            row = {
                "messages": [{"role": "user", "content": question}],
                "rewards": ["accuracy"],
                "metadata": {"answer": answer(question)},
            }
            file.write(json.dumps(row) + "\n")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text can be encoded. Four words are one token each, and so is every capital."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=[PAD, "<|im_start|>", END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(["system", "user", "assistant", "reverse"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode_prompts(tokenizer: PreTrainedTokenizerFast, questions: Sequence[str]) -> Tensor:
    """Rendered prompts as ids (questions x tokens); all have the same length."""
    chats = [[{"role": "user", "content": question}] for question in questions]
    texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    return torch.tensor(tokenizer(texts, add_special_tokens=False)["input_ids"])


def encode_replies(tokenizer: PreTrainedTokenizerFast, questions: Sequence[str]) -> Tensor:
    """The right replies as ids, each with its end-of-turn token."""
    texts = [answer(question) + END for question in questions]
    return torch.tensor(tokenizer(texts, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Lessons:
    """Prompts and right replies as ids (questions x tokens)."""

    prompts: Tensor
    replies: Tensor

    def batches(self, count: int) -> Iterator[Lessons]:
        """`count` batches in order, from the start again when they are used up."""
        for start in range(0, count * BATCH, BATCH):
            rows = torch.arange(start, start + BATCH) % len(self.prompts)
            yield Lessons(self.prompts[rows], self.replies[rows])


def make_lessons(tokenizer: PreTrainedTokenizerFast, questions: Sequence[str]) -> Lessons:
    """Questions and their right replies as ids."""
    return Lessons(encode_prompts(tokenizer, questions), encode_replies(tokenizer, questions))


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3-architecture model with random weights."""
    torch.manual_seed(recipe.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=2 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},  # 1e4 is for thousands of tokens
        # About 1/sqrt(hidden). With the usual 0.02 the output head of so narrow a model, which an adapter leaves
        # as it is, could not tell tokens apart sharply enough for the student to get as sure as the teacher.
        initializer_range=0.1,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def reply_logprobs(model: Qwen3ForCausalLM, lessons: Lessons) -> Tensor:
    """The model's logprob of each token of the right replies (questions x reply tokens)."""
    ids = torch.cat([lessons.prompts, lessons.replies], dim=1)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, lessons.prompts.shape[1] - 1 : -1])
    return -F.cross_entropy(logits.transpose(1, 2), lessons.replies, reduction="none")


@torch.no_grad()
def expected_accuracy(model: Qwen3ForCausalLM, held_out: Lessons) -> float:
    """Mean probability of the right reply: what sampling at temperature 1 gives on average, without its noise."""
    return reply_logprobs(model, held_out).sum(dim=1).exp().mean().item()


def train(model: Qwen3ForCausalLM, recipe: Recipe, lessons: Lessons, held_out: Lessons) -> int:
    """Train on the right replies until the held-out accuracy is from `low` to `high`. Returns the steps taken."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    before = copy_weights(model)
    for step, batch in enumerate(lessons.batches(MAX_STEPS), start=1):
        falling = 1 - (step - 1) / MAX_STEPS
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(step / WARMUP, falling)
        optimizer.zero_grad()
        (-reply_logprobs(model, batch).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % CHECK_EVERY == 0:
            reached = expected_accuracy(model, held_out)
            if reached > recipe.high:
                step_back(model, before, recipe, held_out)
            if reached >= recipe.low:
                return step
            before = copy_weights(model)
    return MAX_STEPS


def copy_weights(model: Qwen3ForCausalLM) -> dict[str, Tensor]:
    """The weights by name, as they are now."""
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def step_back(model: Qwen3ForCausalLM, before: dict[str, Tensor], recipe: Recipe, held_out: Lessons) -> None:
    """Go back from weights that are too good, towards `before` that were too weak, until the accuracy fits.

    Between the two it changes continuously, so that halving the way again and again finds such a place.
    """
    after, near, far = copy_weights(model), 0.0, 1.0
    for _ in range(30):
        middle = (near + far) / 2
        model.load_state_dict({name: before[name].lerp(after[name], middle) for name in after})
        reached = expected_accuracy(model, held_out)
        if recipe.low <= reached <= recipe.high:
            return
        near, far = (middle, far) if reached < recipe.low else (near, middle)


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an ordinary Hugging Face folder."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(do_sample=True, eos_token_id=end, pad_token_id=pad)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sampled_accuracy(folder: Path, questions: Sequence[str]) -> float:
    """Load a saved model and let it answer each question once, at temperature 1."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = encode_prompts(tokenizer, questions)
    torch.manual_seed(0)
    outputs = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=LETTERS + 2,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    replies = tokenizer.batch_decode(outputs[:, prompts.shape[1] :], skip_special_tokens=True)
    right = [reply == answer(question) for reply, question in zip(replies, questions, strict=True)]
    return sum(right) / len(right)


def make_and_check(recipe: Recipe, lessons: Lessons, questions: Sequence[str]) -> None:
    """Train, save and measure one model; end the program when the saved model is not what it should be."""
    began = time.monotonic()
    tokenizer = make_tokenizer()
    model = make_model(recipe, tokenizer)
    steps = train(model, recipe, lessons, make_lessons(tokenizer, questions))
    save(model, tokenizer, Path(recipe.name))
    reached, (low, high) = sampled_accuracy(Path(recipe.name), questions), recipe.accept
    print(
        f"{recipe.name}: {model.num_parameters():,} parameters, {steps} steps, "
        f"held-out accuracy {reached:.1%} ({time.monotonic() - began:.0f} s)",
        flush=True,
    )
    if not low <= reached <= high:
        sys.exit(f"./{recipe.name} must be right in {low:.0%} to {high:.0%} of the held-out questions.")


def main() -> None:
    """Make the models and the data, unless they are there."""
    parser = argparse.ArgumentParser(description="Makes the quickstart's tokenizer, models and data.")
    parser.add_argument("--force", action="store_true", help=f"make {', '.join(OUTPUTS)} again")
    force = parser.parse_args().force
    there = [name for name in OUTPUTS if Path(name).exists()]
    if there and not force:
        print(f"Already there: {', '.join(there)}. To make everything again: python prepare.py --force")
        sys.exit(0 if len(there) == len(OUTPUTS) else 1)

    began = time.monotonic()
    logging.disable_progress_bar()
    # Several threads would wait for each other more than they compute, with matrices so small.
    torch.set_num_threads(1)
    generator, taken = random.Random(0), set[str]()
    held_out, known, prompts = (make_questions(n, generator, taken) for n in (HELD_OUT, LESSONS, PROMPTS))
    lessons = make_lessons(make_tokenizer(), known)
    for recipe in (TEACHER, STUDENT):
        make_and_check(recipe, lessons, held_out)
    write_rows(Path("train.jsonl"), prompts)
    write_rows(Path("val.jsonl"), held_out)
    seconds = time.monotonic() - began
    print(f"train.jsonl: {PROMPTS} prompts, val.jsonl: {HELD_OUT} others ({seconds:.0f} s in all)")


if __name__ == "__main__":
    main()
