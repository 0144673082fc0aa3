"""Rollouts of `rnow test` as people read them, and as one JSON document."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rnow.display import console
from rnow.display.console import harmless, paint
from rnow.display.lines import figures, number
from rnow_core.jobs.trial import Trial
from rnow_core.track.turns import Turn, turns_of

ROLE_STYLES = {"system": "yellow", "user": "cyan", "assistant": "green", "tool": "magenta"}
SHOWN_CHARACTERS, SHOWN_LINES = 600, 12
"""Of a prompt or a tool result without --verbose. What the student wrote is shown whole."""
MARKED = 5
"""Tokens of a turn that --verbose marks."""

Record = Mapping[str, Any]


def trial_data(trial: Trial) -> dict[str, Any]:
    """The trial as JSON-ready data; the tokens themselves are in the saved file."""
    return {
        "ok": not trial.failures,
        "engine": trial.engine,
        "saved": str(trial.file) if trial.file else None,
        "logs": str(trial.logs) if trial.logs else None,
        "rollouts": [_rollout_data(record) for record in trial.rollouts],
        "failures": [asdict(failure) for failure in trial.failures],
    }


def _rollout_data(record: Record) -> dict[str, Any]:
    turns = turns_of(record)
    same = ("file", "line", "sample", "messages", "stop_reason", "rewards", "reward", "teacher_name")
    return {
        "row": record["row"] + 1,
        **{name: record[name] for name in same},
        "prompt_tokens": len(record["prompt_ids"]),
        "tokens": sum(len(turn.pieces) for turn in turns),
        "turns": [
            {"turn": turn.number, "tokens": len(turn.pieces), "teacher_kl": turn.mean_kl} for turn in turns
        ],
        "teacher_kl": record["kl_mean"],
        **{name: record[name] for name in ("tool_calls", "tool_errors", "seconds")},
    }


def show_trial(trial: Trial, verbose: bool) -> None:
    """Every rollout, then what failed, then all of it in a line."""
    colour = console.coloured(sys.stdout)
    for record in trial.rollouts:
        for line in rollout_lines(record, verbose, colour):
            console.out(line)
        console.out()
    for failure in trial.failures:
        place = f"{failure.file}:{failure.line}, rollout {failure.sample + 1}"
        console.out(f"{paint('failed', 'red', colour)} {place}: {harmless(failure.message)}")
    console.out(_totals(trial))
    if trial.file:
        console.out(f"saved in {console.relative(trial.file)}")
    if trial.logs:
        console.out(f"what tools, rewards and servers printed: {console.relative(trial.logs)}")


def rollout_lines(record: Record, verbose: bool, colour: bool) -> Iterator[str]:
    """One rollout: its conversation message by message, then its figures."""
    title = f"row {record['row'] + 1} ({record['file']}:{record['line']}), rollout {record['sample'] + 1}"
    yield paint(title, "bold", colour)
    turns = turns_of(record)
    sampled = _sampled(record["messages"], turns)
    for place, message in enumerate(record["messages"]):
        turn = sampled.get(place)
        if turn is None:
            yield from _given(message, verbose, colour)
        else:
            exact = verbose or _malformed(record["messages"], place)
            yield from _said(message, turn, exact, verbose, colour)
    yield from _result(record, turns)


def _sampled(messages: Sequence[Mapping[str, Any]], turns: Sequence[Turn]) -> dict[int, Turn]:
    """Which message is which turn: the student's are the last ones of the assistant."""
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    return dict(zip(places[len(places) - len(turns) :], turns, strict=True))


def _given(message: Mapping[str, Any], verbose: bool, colour: bool) -> Iterator[str]:
    """A message that the student did not write."""
    role = str(message["role"])
    named = f"  {message['name']}" if role == "tool" and message.get("name") else ""
    yield f"  {paint(role, ROLE_STYLES.get(role, 'bold'), colour)}{harmless(named)}"
    yield from _indented(_text(message.get("content")), whole=verbose)
    yield from _calls(message, colour)


def _malformed(messages: Sequence[Mapping[str, Any]], place: int) -> bool:
    """Whether a turn has more answers than calls: some of its text was meant as a call, and could not be read."""
    answers = itertools.takewhile(lambda message: message["role"] == "tool", messages[place + 1 :])
    return len(list(answers)) > len(messages[place].get("tool_calls") or ())


def _said(message: Mapping[str, Any], turn: Turn, exact: bool, verbose: bool, colour: bool) -> Iterator[str]:
    """A sampled turn: its `exact` text, or what was read from it; with `verbose` the largest KLs."""
    facts = [f"turn {turn.number}", _counted(len(turn.pieces), "token")]
    if turn.mean_kl is not None:
        facts.append(f"KL {number(turn.mean_kl)}")
    yield f"  {paint('assistant', ROLE_STYLES['assistant'], colour)}  {paint(', '.join(facts), 'dim', colour)}"
    content, calls = _text(message.get("content")), list(_calls(message, colour))
    if exact:
        yield from _indented(_marked(turn, verbose, colour), whole=True, painted=True)
    elif content or calls:
        if message.get("reasoning_content"):
            yield from (
                paint(line, "dim", colour) for line in _indented(message["reasoning_content"], whole=False)
            )
        yield from _indented(content, whole=True)
    yield from calls
    if verbose and (worst := turn.largest(MARKED)) and turn.kl is not None:
        listed = ", ".join(f"{json.dumps(turn.pieces[at])} {number(turn.kl[at])}" for at in worst)
        yield f"    {paint('largest KL:', 'dim', colour)} {listed}"


def _calls(message: Mapping[str, Any], colour: bool) -> Iterator[str]:
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = function.get("arguments") or {}
        pairs = arguments.items() if isinstance(arguments, dict) else [("", arguments)]
        shown = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in pairs)
        called = harmless(f"{function['name']}({shown})")
        yield f"    {paint('->', 'magenta', colour)} {called}"


def _marked(turn: Turn, marks: bool, colour: bool) -> str:
    """The exact text of a turn, with `marks` the tokens of the largest KL in red, or in [[ ]] without colour."""
    worst = turn.largest(MARKED) if marks else []
    pieces = [harmless(piece) for piece in turn.pieces]
    for place in worst:
        pieces[place] = paint(pieces[place], "red", True) if colour else f"[[{pieces[place]}]]"
    return "".join(pieces)


def _result(record: Record, turns: Sequence[Turn]) -> Iterator[str]:
    """Why it ended, tokens, tool calls, rewards, KL, seconds."""
    tokens = sum(len(turn.pieces) for turn in turns)
    parts = [_counted(len(turns), "turn"), _counted(tokens, "token")]
    if record["tool_calls"]:
        parts.append(f"{_counted(record['tool_calls'], 'tool call')} ({record['tool_errors']} failed)")
    yield f"  stop    {record['stop_reason']}: {', '.join(parts)}, {number(record['seconds'])} s"
    if record["reward"] is not None:
        yield f"  reward  {number(record['reward'])}  ({figures(record['rewards'])})"
    if record["kl_mean"] is not None:
        yield f"  KL      {number(record['kl_mean'])} a token, to {record['teacher_name']}"


def _totals(trial: Trial) -> str:
    """All rollouts in one line."""
    rollouts = trial.rollouts
    parts = [_counted(len(rollouts), "rollout")]
    if trial.failures:
        parts.append(f"{len(trial.failures)} failed")
    parts += [
        f"{reason} {count}"
        for reason, count in Counter(record["stop_reason"] for record in rollouts).most_common()
    ]
    for name, key in (("reward", "reward"), ("KL", "kl_mean")):
        known = [record[key] for record in rollouts if record[key] is not None]
        if known:
            parts.append(f"{name} {number(sum(known) / len(known))}")
    return "  ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _text(content: Any) -> str:
    """A message's text; parts are joined."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _indented(text: str, *, whole: bool, painted: bool = False) -> Iterator[str]:
    """The text as indented lines; what is left out is counted."""
    shown = text if whole else "\n".join(text[:SHOWN_CHARACTERS].splitlines()[:SHOWN_LINES])
    yield from (f"    {line if painted else harmless(line)}" for line in shown.splitlines())
    left = len(text.rstrip("\n")) - len(shown)
    if left > 0:
        yield f"    ... {left:,} more characters (--verbose shows them)"
