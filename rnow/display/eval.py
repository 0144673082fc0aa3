"""The table of `rnow eval` as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnow.display import console
from rnow.display.console import harmless
from rnow.display.lines import number

Table = Mapping[str, Any]


def show_table(table: Table) -> None:
    """Every env, then all of them where there are several, and where the rest is."""
    for line in table_lines(table):
        console.out(line)


def table_lines(table: Table) -> Iterator[str]:
    """The figures as lines of text; intervals are 95 %, over problems."""
    what = f"run {table['run']}, step {table['step']}" if table["run"] else "no run"
    passing = f"a sample passes from a reward of {number(table['pass_threshold'])}"
    yield f"{harmless(what)}: {table['samples']} samples a problem, {passing}"
    parts = dict(table["envs"])
    if len(parts) > 1:
        parts["all together"] = table["overall"]
    for env, part in parts.items():
        yield ""
        yield from _part(harmless(env), part, table)
    yield ""
    yield f"saved in {console.relative(table['file'])}"
    yield f"problems, replies and rewards: {console.relative(table['problems_file'])}"


def _part(env: str, part: Table, table: Table) -> Iterator[str]:
    """One env: a line a policy, the differences, how much of the gap is closed."""
    passes = [f"pass@{k}" for k in table["pass_at"]]
    rows = [[env, f"avg@{table['samples']}", *passes, "tokens", "truncated", "problems", "failed"]]
    for policy, found in part["policies"].items():
        shares = [_estimate(found["pass"].get(str(k))) for k in table["pass_at"]]
        counts = [f"{found['truncated']:.0%}", number(found["problems"]), number(found["failed"])]
        rows.append([policy, _estimate(found["avg"]), *shares, f"{found['tokens']:.1f}", *counts])
    yield from _aligned(rows)
    for name, found in part["differences"].items():
        yield f"{name}: {_estimate(found, signed=True)}"
    if part["gap_closed"] is not None:
        yield f"gap closed: {part['gap_closed']:.0f} %"


def _estimate(found: Table | None, signed: bool = False) -> str:
    """`0.52 [0.44, 0.60]`."""
    if found is None:
        return "-"
    form = "+.3f" if signed else ".3f"
    mean = format(found["mean"], form)
    return mean if found["low"] is None else f"{mean} [{found['low']:{form}}, {found['high']:{form}}]"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
