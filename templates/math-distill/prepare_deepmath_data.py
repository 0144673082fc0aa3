r"""Writes train.jsonl and val.jsonl: DeepMath-103K and AIME 2024 from Hugging Face, or problems of your own.

    python prepare_deepmath_data.py                                 # the whole of both: a download of about 2.1 GB
    python prepare_deepmath_data.py --limit 5000                    # a sample of the training problems
    python prepare_deepmath_data.py --train sample_problems.jsonl   # no download: a local .jsonl, .csv or .parquet
    python prepare_deepmath_data.py --train train.csv --eval test.csv --question-field task --answer-field solution

A problem has a question and an answer that can be checked; other columns are left alone. Of a solution in GSM8K's form
what stands behind `####` is the answer; `--answer-regex` finds it in others. Problems that are in the evaluation, or
there twice, are left out of the training. Needs `datasets` for what is on Hugging Face, `pyarrow` for .parquet files.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow.verifiers import last_boxed
from rnow_core.data.overlap import EvalTexts

TRAIN, EVAL = "zwhe99/DeepMath-103K", "HuggingFaceH4/aime_2024"
QUESTIONS = ("question", "problem", "prompt")
ANSWERS = ("final_answer", "answer", "expected_answer", "solution")
KEPT = ("difficulty", "topic", "subject", "level", "year")  # columns that become metadata
INSTRUCTION = r"Reason step by step, and put the final answer in \boxed{}."
HELD_OUT = (10, 200)  # without --eval: one in so many local problems, at most so many
NUMBER = r"[-+]?\$?[\d.,]+"
REWARDS = {
    "math": ".+",
    "exact": ".+",
    "numeric": rf"{NUMBER}( ?/ ?{NUMBER})?( ?\\?%| [A-Za-z ]+)?|[-+]?\\frac{{\d+}}{{\d+}}",
    "multiple_choice": "[A-Za-z]",
}
"""The built-in verifiers -> the answers that they can use."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """A question with its answer in a plain spelling, and what else is known about it."""

    question: str
    answer: str
    details: Row


@dataclass(frozen=True)
class Form:
    """Where a row has its question and its answer, by default where most have them, and how replies are judged."""

    reward: str
    question: str | None = None
    answer: str | None = None
    pattern: str | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Ends the program with one message when the problems cannot be had or used."""
    options = parse(arguments)
    form = Form(options.reward, options.question_field, options.answer_field, options.answer_regex)
    held_out = problems(options.eval or EVAL, form) if options.eval or not options.train else None
    found = problems(options.train or TRAIN, form)
    if held_out is None:
        found, held_out = split(distinct(found), options.seed)
    train = training(found, held_out)
    if options.limit and options.limit < len(train):
        chosen = sorted(random.Random(options.seed).sample(range(len(train)), options.limit))
        train = [train[index] for index in chosen]
    if not train:
        raise fail("no problem is left for training: all of them are in the evaluation too.")
    name = Path(options.eval or options.train or EVAL).stem
    write(options.out / "val.jsonl", rows(held_out, options, {"env": name}))
    write(options.out / "train.jsonl", rows(train, options, {}))
    print(
        f"Wrote {len(train)} problems to {options.out / 'train.jsonl'}, {len(held_out)} ({name}) to val.jsonl."
    )
    print(f"The reward `{options.reward}` counts right answers; with adv_tau 0 they are not trained on.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; argparse ends the program when they are wrong."""
    parser = argparse.ArgumentParser(description="Make train.jsonl and val.jsonl from math problems.")
    add = parser.add_argument
    add("--train", metavar="FILE", help=f"local problems [default: {TRAIN}]")
    add("--eval", metavar="FILE", help=f"for val.jsonl [default: {EVAL}; with --train: some of those]")
    add("--question-field", metavar="NAME", help=f"column [default: {', '.join(QUESTIONS)}]")
    add("--answer-field", metavar="NAME", help=f"column [default: {', '.join(ANSWERS)}]")
    add("--answer-regex", metavar="REGEX", help="its first group in the answer's column is the answer")
    add("--limit", type=int, metavar="N", help="only N training problems, chosen by --seed")
    add("--seed", type=int, default=0, help="[default: 0]")
    add("--reward", choices=REWARDS, default="math", help="how replies are judged [default: math]")
    add("--instruction", default=INSTRUCTION, help="stands behind every question; '' for none")
    add("--out", type=Path, default=Path(), metavar="DIR", help="[default: this folder]")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit: expected at least 1, got {options.limit}")
    try:
        if options.answer_regex and not re.compile(options.answer_regex).groups:
            parser.error("--answer-regex: expected a group, (...), around the answer")
    except re.error as error:
        parser.error(f"--answer-regex: {options.answer_regex!r} is no regular expression: {error}")
    return options


def fail(message: str) -> SystemExit:
    """What ends the program with exit code 1 and this message on stderr."""
    return SystemExit(f"prepare_deepmath_data.py: {message}")


# ---- reading ------------------------------------------------------------------------------------------------------


def problems(source: str, form: Form) -> list[Problem]:
    """The problems of a local file or of one of the two data sets; how many could not be used is printed."""
    known = source in (TRAIN, EVAL)
    given, form = (download(source), Form(form.reward)) if known else (read_file(Path(source)), form)
    question = field(given, form.question, QUESTIONS, source)
    answer = field(given, form.answer, ANSWERS, source)
    found: list[Problem] = []
    left_out: Counter[str] = Counter()
    for row in given:
        text, solution = (
            str("" if row.get(name) is None else row[name]).strip() for name in (question, answer)
        )
        match = re.search(form.pattern, solution) if form.pattern else None
        right = "" if form.pattern and not match else plain((match[1] or "") if match else solution)
        if not text or not right:
            left_out["without a question" if not text else "without an answer"] += 1
        elif not re.fullmatch(REWARDS[form.reward], right, re.DOTALL):
            left_out[f"with an answer that `{form.reward}` cannot use"] += 1
        else:
            kept = {name: row[name] for name in KEPT if str(row.get(name)) not in ("None", "nan", "")}
            found.append(Problem(text, right, {**kept, "source": Path(source).stem}))
    for reason, count in left_out.items():
        print(f"{source}: left out {count} of {len(given)} rows {reason}.")
    if not found:
        raise fail(f"{source}: no row has a question and an answer that can be used.")
    return found


def field(given: Sequence[Row], wanted: str | None, usual: Sequence[str], source: str) -> str:
    """The column that is wanted, or the first of the usual ones that is there."""
    if not given:
        raise fail(f"{source} has no rows.")
    there = list(dict.fromkeys(str(name) for row in given[:1000] for name in row))
    chosen = next((name for name in ([wanted] if wanted else usual) if name in there), None)
    if chosen is None:
        option = "--question-field" if usual is QUESTIONS else "--answer-field"
        looked = wanted or ", ".join(usual)
        raise fail(f"{source} has no column {looked}. It has: {', '.join(there)}. Choose one with {option}.")
    return chosen


def download(name: str) -> list[Row]:
    """The rows of a data set on Hugging Face, without the columns that are not used (DeepMath's solutions are 5 GB)."""
    hint = "Check the network (HF_HUB_OFFLINE unset? a proxy?), or give local ones: --train FILE --eval FILE"
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise fail(f"{name} needs the package `datasets` ({error}): pip install datasets") from None
    try:
        data = load_dataset(name, split="train")
        used = [column for column in data.column_names if column in (*QUESTIONS, *ANSWERS[:3], *KEPT)]
        return [dict(row) for row in data.select_columns(used)]
    except Exception as error:  # of the hub, its cache or its network: none of them asks for a traceback
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise fail(f"{name} could not be loaded: {type(error).__name__}: {reason}\n{hint}") from None


def read_file(path: Path) -> list[Row]:
    """The rows of a local file."""
    readers = {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}
    if path.suffix.lower() not in readers:
        raise fail(f"{path}: expected a file that ends in {', '.join(readers)}.")
    try:
        return list(readers[path.suffix.lower()](path))
    except OSError as error:
        raise fail(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, csv.Error) as error:
        raise fail(f"{path} cannot be read: {error}.") from None


def read_jsonl(path: Path) -> Iterator[Row]:
    """One JSON object a line; blank lines are skipped."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                value = json.loads(line) if line.strip() else None
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if isinstance(value, dict):
                yield value
            elif line.strip():
                raise ValueError(f"line {number}: expected an object, got {type(value).__name__}")


def read_csv(path: Path) -> Iterator[Row]:
    """Rows of a CSV file with a header."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream)


def read_parquet(path: Path) -> Iterator[Row]:
    """Rows of a parquet file."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise fail(f"{path} needs the package `pyarrow` ({error}): pip install pyarrow") from None
    yield from parquet.read_table(path).to_pylist()


# ---- answers and rows ---------------------------------------------------------------------------------------------


def plain(answer: str) -> str:
    r"""An answer without what is around it: behind GSM8K's `####`, out of `\boxed{}` or dollars, `025` as 25."""
    text = answer.rpartition("####")[2].strip()
    boxed = last_boxed(text)
    text = (text if boxed is None else boxed).strip().removesuffix(".").strip()
    for start, end in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inner = text[len(start) : -len(end)]
        if text == start + inner + end and start not in inner:
            text = inner.strip()
    text = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", text)
    if re.fullmatch(r"[-+]?\$?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    return re.sub(r"^([-+]?)0+(?=\d+$)", r"\1", text)


def distinct(found: Iterable[Problem]) -> list[Problem]:
    """The problems whose question was not there before (but for case and spaces)."""
    kept: dict[str, Problem] = {}
    for problem in found:
        kept.setdefault(" ".join(problem.question.casefold().split()), problem)
    return list(kept.values())


def split(found: Sequence[Problem], seed: int) -> tuple[list[Problem], list[Problem]]:
    """Problems for training and, chosen by the seed, for evaluation."""
    share, most = HELD_OUT
    if len(found) < 2:
        raise fail("one problem is not enough to train on and to evaluate: give --eval FILE.")
    count = min(most, max(1, len(found) // share))
    held_out = set(random.Random(seed).sample(range(len(found)), count))
    train = [problem for index, problem in enumerate(found) if index not in held_out]
    return train, [found[index] for index in sorted(held_out)]


def training(found: Sequence[Problem], held_out: Sequence[Problem]) -> list[Problem]:
    """The problems that may be trained on: each once, none that is word for word or nearly in the evaluation."""
    once = distinct(found)
    evaluation = EvalTexts(problem.question for problem in held_out)
    kept = [problem for problem in once if evaluation.match(problem.question) is None]
    for count, reason in (
        (len(found) - len(once), "there twice"),
        (len(once) - len(kept), "in the evaluation too"),
    ):
        if count:
            print(f"Left out {count} of {len(found)} training problems that are {reason}.")
    return kept


def rows(found: Iterable[Problem], options: argparse.Namespace, more: Row) -> Iterator[Row]:
    """Problems in the form of train.jsonl. The answer is metadata: no model sees it."""
    for problem in found:
        text = f"{problem.question}\n\n{options.instruction}" if options.instruction else problem.question
        yield {
            "messages": [{"role": "user", "content": text}],
            "rewards": [options.reward],
            "metadata": {"answer": problem.answer, **problem.details},
            **more,
        }


def write(path: Path, found: Iterable[Row]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    unfinished.replace(path)


if __name__ == "__main__":
    main()
