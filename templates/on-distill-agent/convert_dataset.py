"""Turns MedBrowseComp, or a file of your own with the same columns, into train.jsonl.

    python convert_dataset.py                                 # the whole MedBrowseComp_605 split: 605 rows
    python convert_dataset.py --split MedBrowseComp_50        # another split
    python convert_dataset.py my_questions.csv                # a local .jsonl, .json, .csv or .parquet file

Columns: `prompt` (the question), `gold` (its answer), `task_name`, `split`; only the first must be there. The answer is
kept as metadata: no model sees it. Needs `datasets` for everything but .jsonl, .json and .csv files.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

DATASET = "AIM-Harvard/MedBrowseComp"
SPLITS = ("MedBrowseComp_605", "MedBrowseComp_50", "MedBrowseComp_CUA")
TOOLS, IMAGE = ["browse"], "local/crawl4ai"
SHOWN = 10  # problems that are listed before the rest is only counted
SYSTEM = (
    "You answer medical questions by looking things up on the web. Call browse with the full address of a page, for "
    "example https://clinicaltrials.gov/study/ followed by a trial's NCT number. When you have found the answer, "
    "reply without a tool call and give it in the last line, as short as possible."
)
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Ends the program with one message when the data cannot be had or is not as expected."""
    parser = argparse.ArgumentParser(description="Make train.jsonl from MedBrowseComp or a local file.")
    parser.add_argument(
        "source", nargs="?", type=Path, help="a local file [default: the data set on Hugging Face]"
    )
    parser.add_argument(
        "--split", help=f"{', '.join(SPLITS)} [default: {SPLITS[0]}; of a local file: every row]"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N rows")
    parser.add_argument("--output", type=Path, default=Path("train.jsonl"), help="[default: train.jsonl]")
    parser.add_argument("--docker", default=IMAGE, help=f"image of the sandbox [default: {IMAGE}]")
    options = parser.parse_args(arguments)

    rows = (
        read_file(options.source, options.split) if options.source else download(options.split or SPLITS[0])
    )
    rows = rows[: options.limit]
    origin = str(options.source or f"{DATASET}, split {options.split or SPLITS[0]}")
    check(rows, origin)
    write((converted(row, options.split or "", options.docker) for row in rows), options.output)
    print(f"Wrote {len(rows)} rows from {origin} to {options.output}.")
    if unanswered := sum(plain(row.get("gold")) in (None, "") for row in rows):
        print(f"{unanswered} of them have no answer (column gold): only a reward would need it.")
    print_histogram(Counter(str(row.get("task_name") or "(no task_name)") for row in rows))


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def fail(message: str) -> SystemExit:
    """What ends the program with exit code 1 and this message on stderr."""
    return SystemExit(f"convert_dataset.py: {message}")


# ---- reading ------------------------------------------------------------------------------------------------------


def download(split: str) -> list[Row]:
    """All rows of a split of the data set on Hugging Face."""
    if split not in SPLITS:
        raise fail(f"{DATASET} has no split {split!r}. It has: {', '.join(SPLITS)}.")
    return load_with_datasets(
        DATASET,
        name=DATASET,
        split=split,
        hint="Check the network (HF_HUB_OFFLINE unset? a proxy?), or give a local file with columns "
        "prompt, gold, task_name, split: python convert_dataset.py FILE",
    )


def load_with_datasets(path: str, *, name: str, hint: str, **options: Any) -> list[Row]:
    """`datasets.load_dataset` as a list of rows; `name` and `hint` are for errors."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise fail(f"{name} needs the package `datasets` ({error}): uv pip install datasets") from None
    try:
        return [dict(row) for row in load_dataset(path, **options)]
    except (
        Exception
    ) as error:  # the hub, its cache and its network have many kinds, and none asks for a traceback
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise fail(f"{name} could not be loaded: {type(error).__name__}: {reason}\n{hint}") from None


def read_file(path: Path, split: str | None) -> list[Row]:
    """The rows of a local file; with `split` those whose column `split` says so."""
    readers = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".parquet": read_parquet}
    if path.suffix.lower() not in readers:
        raise fail(f"{path}: expected a file that ends in {', '.join(readers)}.")
    try:
        rows = list(readers[path.suffix.lower()](path))
    except OSError as error:
        raise fail(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, csv.Error) as error:
        raise fail(f"{path} cannot be read: {error}.") from None
    if split is None:
        return rows
    chosen = [row for row in rows if row.get("split") == split]
    if not chosen:
        there = sorted({str(row.get("split")) for row in rows})
        raise fail(f"{path} has no row whose split is {split!r}. It has: {', '.join(there[:SHOWN])}.")
    return chosen


def read_jsonl(path: Path) -> Iterator[Row]:
    """One JSON object a line; blank lines are skipped."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield as_row(json_of(line, f"line {number}"), f"line {number}")


def read_json(path: Path) -> Iterator[Row]:
    """A JSON list of objects."""
    data = json_of(path.read_text(encoding="utf-8-sig"), "the file")
    if not isinstance(data, list):
        raise ValueError(f"expected a JSON list of objects, got {type(data).__name__}")
    for number, row in enumerate(data, start=1):
        yield as_row(row, f"element {number}")


def read_csv(path: Path) -> Iterator[Row]:
    """A CSV file with a header line."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def read_parquet(path: Path) -> list[Row]:
    """A parquet file, through `datasets`."""
    path.open("rb").close()
    hint = "It should be a parquet file."
    return load_with_datasets("parquet", name=str(path), hint=hint, data_files=str(path), split="train")


def json_of(text: str, place: str) -> object:
    """The text as JSON; an error names the place."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON: {error}") from None


def as_row(value: object, place: str) -> Row:
    """The value if it is a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected a JSON object, got {type(value).__name__}")
    return value


# ---- writing ------------------------------------------------------------------------------------------------------


def check(rows: Sequence[Row], origin: str) -> None:
    """End the program unless there are rows and each has a question."""
    if not rows:
        raise fail(f"{origin} has no rows.")
    columns = {name: None for row in rows for name in row}
    if "prompt" not in columns:
        raise fail(f"{origin} has no column prompt. Its columns: {', '.join(map(str, columns))}.")
    problems = [
        f"row {number}: prompt: expected a question, got {row.get('prompt')!r}"
        for number, row in enumerate(rows, start=1)
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip()
    ]
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise fail("\n".join([f"{origin} cannot be converted:", *problems[:SHOWN], *more]))
    if not any(" " in row["prompt"].strip() for row in rows):
        raise fail(
            f"{origin}: every prompt is one long word such as {rows[0]['prompt'][:40]!r}. MedBrowseComp is also passed "
            "around encoded; its authors say how to decode it: https://github.com/shan23chen/MedBrowseComp"
        )


def converted(row: Row, split: str, docker: str) -> Row:
    """A line of train.jsonl."""
    metadata = {
        "answer": plain(row.get("gold")),
        "task_name": row.get("task_name"),
        "split": row.get("split") or split,
    }
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": row["prompt"].strip()},
        ],
        "tools": TOOLS,
        "docker": docker,
        "metadata": {key: value for key, value in metadata.items() if value not in (None, "")},
    }


def plain(value: Any) -> Any:
    """A value as JSON can hold it; NaN, an empty cell of a table, is None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)


def write(rows: Iterable[Row], path: Path) -> None:
    """One JSON object a line; the file is replaced as a whole, never half written."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise fail(f"{path} cannot be written: {error.strerror}.") from None


def print_histogram(tasks: Counter[str]) -> None:
    """How many rows each task has, most frequent first."""
    width, most = max(map(len, tasks)), max(tasks.values())
    print("Tasks:")
    for task, count in tasks.most_common():
        print(f"  {task.ljust(width)}  {count:5d}  {'#' * math.ceil(30 * count / most)}")


if __name__ == "__main__":
    sys.exit(main())
