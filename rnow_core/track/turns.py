"""A trace by sampled turns, for whoever shows it: which tokens each has, and where the teacher disagrees.

Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """One sampled turn. `number` counts from 1; `kl` has one value for each of `pieces`, in nats, None without a
    teacher, and NaN for a token that it gave no value.
    """

    number: int
    pieces: tuple[str, ...]
    kl: tuple[float, ...] | None

    @property
    def mean_kl(self) -> float | None:
        """Mean over the tokens that have one; None without a teacher."""
        known = [value for value in self.kl or () if not math.isnan(value)]
        return sum(known) / len(known) if known else None

    def largest(self, count: int) -> list[int]:
        """Positions of the tokens with the largest KL above 0, largest first: what the teacher would not have said."""
        above = [(value, place) for place, value in enumerate(self.kl or ()) if value > 0.0]
        return [place for _, place in sorted(above, key=lambda pair: -pair[0])[:count]]


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
            None if kl is None else tuple(math.nan if kl[place] is None else kl[place] for place in found),
        )
        for number, found in sorted(places.items())
    ]
