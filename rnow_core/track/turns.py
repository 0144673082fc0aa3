"""A trace by sampled turns, for whoever shows it: which tokens each has, and where the teacher disagrees.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """One sampled turn. `number` counts from 1; `kl` has one value for each of `pieces`, in nats, None without a
    teacher.
    """

    number: int
    pieces: tuple[str, ...]
    kl: tuple[float, ...] | None

    @property
    def mean_kl(self) -> float | None:
        """Mean over the tokens; None without a teacher."""
        return sum(self.kl) / len(self.kl) if self.kl else None

    def largest(self, count: int) -> list[int]:
        """Positions of the tokens with the largest KL above 0, largest first: what the teacher would not have said."""
        if self.kl is None:
            return []
        order = sorted(range(len(self.kl)), key=lambda place: -self.kl[place])  # type: ignore[index]
        return [place for place in order[:count] if self.kl[place] > 0.0]


def turns_of(record: Mapping[str, Any]) -> list[Turn]:
    """The sampled turns of a trace record (`traces.trace_record`), in order."""
    places: dict[int, list[int]] = {}
    for place, number in enumerate(record["turns"]):
        if number:
            places.setdefault(number, []).append(place)
    pieces, kl = record["pieces"], record["kl"]
    return [
        Turn(
            number,
            tuple(pieces[place] for place in found),
            None if kl is None else tuple(kl[place] for place in found),
        )
        for number, found in sorted(places.items())
    ]
