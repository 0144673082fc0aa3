"""How far a generation is, what it cost, and what the rest will take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rnow_core.data.prompt_file import NOT_BEST
from rnow_core.models.adaptive_limit import AdaptiveLimit
from rnow_core.rollout.ask import Asker
from rnow_core.rollout.best_of import Ended
from rnow_core.track.events import Event


@dataclass
class Progress:
    """Counts of prompts over all sessions, and of this session what the pace follows from.

    reasons: of all rejected rows, `not-best` ones included; about: what is known of the prompts.
    """

    total: int
    done: int
    rejected: int
    asker: Asker
    reasons: Counter[str] = field(default_factory=Counter)
    about: Mapping[str, Any] = field(default_factory=dict)
    here: list[Ended] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> int:
        """Prompts that are in train or rejected."""
        return self.done + self.rejected

    def add(self, ended: Ended) -> None:
        """One more prompt has ended."""
        if ended.answers:
            self.here.append(ended)
        if ended.not_best:
            self.reasons[NOT_BEST] += ended.not_best
        if ended.reason:
            self.rejected += 1
            self.reasons[ended.reason] += 1
        else:
            self.done += 1

    def left_s(self) -> float | None:
        """Seconds until all prompts have ended, at this session's pace; None when unknown."""
        if not self.here:
            return None
        return (time.monotonic() - self.started) / len(self.here) * (self.total - self.ended)

    def event(self, gate: AdaptiveLimit) -> Event:
        """Where it stands, for displays and programs."""
        budget = self.asker.budget
        fields = {
            "total": self.total,
            "done": self.done,
            "rejected": self.rejected,
            "in_flight": gate.in_flight,
            "limit": gate.limit,
            "throttled_s": round(gate.throttled_s, 1),
            "retries": self.asker.retries,
            "tokens_in": budget.tokens_in,
            "tokens_out": budget.tokens_out,
            "cost": round(budget.cost, 6),
            "left_s": self.left_s(),
        }
        return Event("progress", {"message": _line(fields), **fields})

    def summary(self, train: Path, rejected: Path) -> dict[str, Any]:
        """What came out."""
        budget = self.asker.budget
        about = dict(self.about)
        prompts = {"train": self.done, "rejected": self.rejected}
        if left := self.total - self.ended:
            prompts["left"] = left
        return {
            "prompts": {**about.pop("prompts", {}), **prompts},
            "train": {"file": str(train), "rows": self.done},
            "rejected": {
                "file": str(rejected),
                "rows": self.rejected + self.reasons[NOT_BEST],
                **{reason: count for reason, count in sorted(self.reasons.items()) if count},
            },
            **about,
            "tokens": {"read": budget.tokens_in, "written": budget.tokens_out},
            "cost": round(budget.cost, 6),
            "requests": {
                "answers": budget.answers,
                "retries": self.asker.retries,
                "slowed": self.asker.slowed,
            },
            "seconds": round(time.monotonic() - self.started, 1),
        }


def forecast(progress: Progress, concurrency: int) -> dict[str, Any]:
    """What the rest will take, from the prompts of this session: tokens, dollars (None when not known), seconds."""
    left, measured = progress.total - progress.ended, progress.here
    if not measured:
        return {"prompts": left}
    share = left / len(measured)
    costs = [item.cost for item in measured]
    known = [cost for cost in costs if cost is not None]
    beside = max(1, min(concurrency, left))
    return {
        "prompts": left,
        "tokens_read": round(share * sum(item.tokens_in for item in measured)),
        "tokens_written": round(share * sum(item.tokens_out for item in measured)),
        "dollars": round(share * sum(known), 4) if len(known) == len(costs) else None,
        "seconds": round(share * sum(item.seconds for item in measured) / beside, 1),
    }


def _line(fields: dict[str, Any]) -> str:
    parts = [f"{fields['done'] + fields['rejected']}/{fields['total']}"]
    parts += [f"{name} {fields[name]}" for name in ("done", "rejected")]
    parts.append(f"in flight {fields['in_flight']}/{fields['limit']}")
    parts.append(f"tokens {fields['tokens_in'] + fields['tokens_out']:,}")
    if fields["cost"]:
        parts.append(f"${fields['cost']:.4f}")
    return "  ".join(parts)
