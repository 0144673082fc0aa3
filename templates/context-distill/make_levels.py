"""Makes train.jsonl and val.jsonl: Sokoban levels that can be solved, by seed.

    python make_levels.py                            # the levels that the template comes with
    python make_levels.py --width 6 --boxes 2 --max-moves 20 --train 1024
    python make_levels.py --show 3                   # print levels, write nothing

The same options make the same bytes. No level is in both files. Existing files are replaced.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from puzzle import Difficulty, Level, ask, draw_level, draw_lots, shortest_solution

TRAIN, HELD_OUT = 256, 64
MOST_TRIES = 5000
"""Levels drawn in a row without a new one that can be used: then there are hardly more of this kind."""


OPTIONS = {
    "width": "columns inside the outer wall",
    "height": "rows inside the outer wall",
    "boxes": "boxes, and goals",
    "walls": "walls inside",
    "min_moves": "moves of a shortest solution, at least",
    "max_moves": "at most",
}
"""What `Difficulty` asks for, as options of the command line."""


class TooFew(Exception):
    """There are not as many levels of this difficulty as were asked for."""


@dataclass(frozen=True)
class Solved:
    """A level and a shortest solution of it."""

    level: Level
    solution: str


def make_levels(difficulty: Difficulty, seed: int) -> Iterator[Solved]:
    """Different levels without end, in an order that the seed decides. Raises TooFew when no new one is found."""
    generator, seen = random.Random(seed), set[Level]()
    while True:
        for _ in range(MOST_TRIES):
            level = draw_lots(difficulty, generator)
            solution = None if level in seen else shortest_solution(level, difficulty.max_moves)
            if solution is not None and len(solution) >= difficulty.min_moves:
                break
        else:
            raise TooFew(f"only {len(seen)} different levels of this difficulty were found")
        seen.add(level)
        yield Solved(level, solution)


def row_of(solved: Solved) -> dict[str, Any]:
    """One line of a data file. The solution is metadata: no model sees it."""
    return {
        "messages": [{"role": "user", "content": ask(solved.level)}],
        "rewards": ["solved"],
        "metadata": {
            "level": draw_level(solved.level).replace(" ", ""),
            "answer": solved.solution,
            "moves": len(solved.solution),
        },
    }


def write_rows(path: Path, levels: Sequence[Solved]) -> None:
    """One JSON line a level."""
    path.write_text("".join(json.dumps(row_of(level)) + "\n" for level in levels), encoding="utf-8")


def show(levels: Sequence[Solved]) -> None:
    """Print levels with their solutions."""
    for solved in levels:
        print(f"{draw_level(solved.level)}\n{solved.solution}\n")


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Makes train.jsonl and val.jsonl: Sokoban levels by seed.")
    parser.add_argument("--seed", type=int, default=0, help="another seed: other levels [0]")
    parser.add_argument("--train", type=_count, default=TRAIN, help=f"levels in train.jsonl [{TRAIN}]")
    parser.add_argument("--val", type=_count, default=HELD_OUT, help=f"levels in val.jsonl [{HELD_OUT}]")
    parser.add_argument("--show", type=_count, metavar="N", help="print N levels, write nothing")
    for name, meaning in OPTIONS.items():
        default = getattr(Difficulty, name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, metavar="N", default=default, help=f"{meaning} [{default}]")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got '{text}'")
    return int(text)


def main() -> None:
    """Make the files, or end with one line that says why not."""
    options = read_options()
    try:
        difficulty = Difficulty(**{name: getattr(options, name) for name in OPTIONS})
        wanted = options.show if options.show is not None else options.train + options.val
        levels = list(islice(make_levels(difficulty, options.seed), wanted))
    except (TooFew, ValueError) as error:
        sys.exit(f"{error}. See: python make_levels.py --help")
    if options.show is not None:
        show(levels)
        return
    write_rows(Path("train.jsonl"), levels[: options.train])
    write_rows(Path("val.jsonl"), levels[options.train :])
    print(f"train.jsonl: {options.train} levels, val.jsonl: {options.val} others")


if __name__ == "__main__":
    main()
