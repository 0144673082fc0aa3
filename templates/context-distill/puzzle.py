"""A small Sokoban: levels as text, moves, a verifier's simulation, a solver, and a generator of solvable levels.

    # wall    @ player    $ box    . goal    * box on a goal    + player on a goal    - floor

A level is solved when every box is on a goal. Standard library only.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

Cell = tuple[int, int]
"""Row and column, counted from 0 at the top left."""

MOVES: dict[str, Cell] = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}
SYMBOLS = "#@$.*+-"
INSTRUCTION = (
    "Solve this Sokoban level. The last line of the reply holds the moves (U, D, L, R) and nothing else."
)
MOVE_LINE = re.compile(r"(?:moves|answer|solution)?\s*:?[\s,]*((?:[UDLR][\s,]*)+)\.?", re.IGNORECASE)
MOST_MOVES = 1000
"""A longer reply is no answer: the simulation stays cheap whatever a model writes."""


@dataclass(frozen=True)
class Level:
    """A position of the game. Everything outside `walls`, `goals`, `boxes` and `player` is floor."""

    rows: int
    columns: int
    walls: frozenset[Cell]
    goals: frozenset[Cell]
    boxes: frozenset[Cell]
    player: Cell

    @property
    def is_solved(self) -> bool:
        """Whether every box is on a goal."""
        return self.boxes <= self.goals

    def after(self, move: str) -> Level | None:
        """The position after one of U, D, L, R; None when a wall, or a box that cannot be pushed, is in the way."""
        down, right = MOVES[move]
        target = (self.player[0] + down, self.player[1] + right)
        if not self._is_inside(target):
            return None
        if target not in self.boxes:
            return replace(self, player=target)
        behind = (target[0] + down, target[1] + right)
        if behind in self.boxes or not self._is_inside(behind):
            return None
        return replace(self, player=target, boxes=self.boxes - {target} | {behind})

    def after_all(self, moves: str) -> Level | None:
        """The position after a sequence of moves; None when one of them is impossible."""
        level: Level | None = self
        for move in moves:
            level = level.after(move) if level else None
        return level

    def _is_inside(self, cell: Cell) -> bool:
        return 0 <= cell[0] < self.rows and 0 <= cell[1] < self.columns and cell not in self.walls


def parse_level(text: str) -> Level:
    """Read a drawn level; spaces between cells do not count.

    Raises:
        ValueError: an unknown symbol, rows of unequal length, not exactly one player, or fewer goals than boxes.
    """
    lines = [line.replace(" ", "") for line in text.strip().splitlines()]
    cells = {(y, x): symbol for y, line in enumerate(lines) for x, symbol in enumerate(line)}
    unknown = sorted(set(cells.values()) - set(SYMBOLS))
    if unknown or len({len(line) for line in lines}) != 1:
        raise ValueError(f"a level has rows of one length, made of {SYMBOLS}, got {text!r}")
    where = {symbols: _cells_with(cells, symbols) for symbols in ("#", "@+", "$*", ".*+")}
    if len(where["@+"]) != 1 or len(where[".*+"]) < len(where["$*"]):
        raise ValueError(f"a level has one player and a goal for each box, got {text!r}")
    (player,) = where["@+"]
    return Level(len(lines), len(lines[0]), where["#"], where[".*+"], where["$*"], player)


def _cells_with(cells: dict[Cell, str], symbols: str) -> frozenset[Cell]:
    return frozenset(cell for cell, symbol in cells.items() if symbol in symbols)


def draw_level(level: Level) -> str:
    """The level as text, a space between cells: without it, tokenizers merge neighbours such as `##`."""
    return "\n".join(
        " ".join(_symbol(level, (y, x)) for x in range(level.columns)) for y in range(level.rows)
    )


def _symbol(level: Level, cell: Cell) -> str:
    if cell in level.walls:
        return "#"
    on_goal = cell in level.goals
    if cell in level.boxes:
        return "*" if on_goal else "$"
    if cell == level.player:
        return "+" if on_goal else "@"
    return "." if on_goal else "-"


def ask(level: Level) -> str:
    """What the student reads: the instruction and the level. The rules are in the teacher's context."""
    return f"{INSTRUCTION}\n\n{draw_level(level)}"


def read_moves(reply: str) -> str | None:
    """The moves in the last line of a reply that is not empty, in capitals; None when it holds anything else.

    `Moves:` in front, Markdown's ` and *, and spaces or commas between the letters are allowed. Reasoning up to
    `</think>` does not count, and a reply that ends inside it has no moves.
    """
    said = reply.rpartition("</think>")[2]
    if "<think>" in said:
        return None
    lines = [line.strip(" \t`*") for line in said.splitlines()]
    last = next((line for line in reversed(lines) if line), "")[: 4 * MOST_MOVES]
    found = MOVE_LINE.fullmatch(last)
    moves = re.sub(r"[\s,]", "", found[1]).upper() if found else ""
    return moves if 0 < len(moves) <= MOST_MOVES else None


def solves(level: Level, reply: str) -> bool:
    """Whether the moves in the reply are all possible and leave every box on a goal."""
    moves = read_moves(reply)
    end = level.after_all(moves) if moves else None
    return end is not None and end.is_solved


def shortest_solution(level: Level, most_moves: int = MOST_MOVES) -> str | None:
    """A shortest sequence of moves, by breadth-first search; None when there is none of at most `most_moves`."""
    queue, seen = deque([(level, "")]), {(level.player, level.boxes)}
    while queue:
        here, moves = queue.popleft()
        if here.is_solved:
            return moves
        for move, after in _possible(here) if len(moves) < most_moves else ():
            if (after.player, after.boxes) not in seen:
                seen.add((after.player, after.boxes))
                queue.append((after, moves + move))
    return None


def _possible(level: Level) -> Iterator[tuple[str, Level]]:
    for move in MOVES:
        after = level.after(move)
        if after is not None:
            yield move, after


@dataclass(frozen=True)
class Difficulty:
    """How hard levels are. `width` and `height` count the cells inside the outer wall; `walls` are extra ones."""

    width: int = 5
    height: int = 5
    boxes: int = 1
    walls: int = 3
    min_moves: int = 3
    max_moves: int = 10

    def __post_init__(self) -> None:
        """ValueError when no level can be like that."""
        cells, needed = self.width * self.height, self.walls + 2 * self.boxes + 1
        if min(self.width, self.height, self.boxes, self.min_moves) < 1 or self.walls < 0:
            raise ValueError("width, height, boxes and min_moves are at least 1, walls at least 0")
        if needed > cells:
            raise ValueError(f"{cells} cells do not hold {needed}: walls, boxes, goals and the player")
        if not self.min_moves <= self.max_moves <= MOST_MOVES:
            raise ValueError(f"max_moves is from min_moves ({self.min_moves}) to {MOST_MOVES}")


def draw_lots(difficulty: Difficulty, generator: random.Random) -> Level:
    """A level with everything at random places; it may have no solution."""
    rows, columns = difficulty.height + 2, difficulty.width + 2
    inside = [(y, x) for y in range(1, rows - 1) for x in range(1, columns - 1)]
    edge = {(y, x) for y in range(rows) for x in range(columns)} - set(inside)
    walls, boxes = difficulty.walls, difficulty.boxes
    places = generator.sample(inside, walls + 2 * boxes + 1)
    return Level(
        rows,
        columns,
        frozenset(edge | set(places[:walls])),
        frozenset(places[walls : walls + boxes]),
        frozenset(places[walls + boxes : -1]),
        places[-1],
    )
