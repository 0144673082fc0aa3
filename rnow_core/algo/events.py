"""Divergences between a student and a teacher over events: single ids, and one tail bucket for all other ids.

With a the student's and b the teacher's probabilities of the events (over all of them a sums to 1):

    reverse    sum a (log a - log b)
    forward    sum b (log b - log a)
    jsd        beta sum b (log b - log m) + (1 - beta) sum a (log a - log m),     m = (1 - beta) a + beta b

The derivative by the student's logit of an id v that belongs to the event e is, with s_e = d D / d a_e,

    (a_e s_e - a_e * sum over events of a s) * p_v / a_e

so a divergence needs two numbers of each event: its term, and its `pull` a_e s_e. The pulls are

    reverse    a (log a - log b)        forward    -b        jsd    (1 - beta) a (log a - log m)

up to constants in s, which cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["reverse", "forward", "jsd"]

LEAST_TAIL = 1e-6
"""The least probability of a teacher's tail bucket: what is left of 1 is rounding noise where its ids hold it all."""


@dataclass(frozen=True)
class Divergence:
    """Which divergence; `beta` is the teacher's share in m of jsd, between 0 and 1 and neither of them."""

    kind: Kind = "reverse"
    beta: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.beta < 1.0:
            raise ValueError(
                f"beta is {self.beta}: there jsd is always 0, use forward or reverse instead (or 0 < beta < 1)"
            )

    def of_events(self, log_a: Tensor, log_b: Tensor) -> tuple[Tensor, Tensor]:
        """Terms and pulls of single events, any shape. An event that the student does not have has log a -inf.

        Such an event counts 0: the teacher's probability there is dropped.
        """
        absent = torch.isneginf(log_a)
        log_a, log_b = log_a.masked_fill(absent, 0.0), log_b.masked_fill(absent, 0.0)
        a, b = log_a.exp(), log_b.exp()
        if self.kind == "reverse":
            pull = a * (log_a - log_b)
            term = pull
        elif self.kind == "forward":
            pull, term = -b, b * (log_b - log_a)
        else:
            log_m = torch.logaddexp(log_a + math.log1p(-self.beta), log_b + math.log(self.beta))
            pull = (1.0 - self.beta) * a * (log_a - log_m)
            term = self.beta * b * (log_b - log_m) + pull
        return term.masked_fill(absent, 0.0), pull.masked_fill(absent, 0.0)


def log_tail(mass: Tensor) -> Tensor:
    """Log of what the teacher's ids leave of a probability of 1, at least LEAST_TAIL; `mass` is their sum."""
    return (1.0 - mass).clamp_(min=LEAST_TAIL).log_()
