"""The metrics of a step of `sft`, and of held-out conversations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rnow_core.types import Batch, UpdateResult

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Surprise:
    """What trained tokens cost a model: their summed -log p in nats, their number and the UTF-8 bytes of their text."""

    nats: float
    tokens: int
    text_bytes: int

    @classmethod
    def total(cls, parts: Iterable[Surprise]) -> Surprise:
        """All parts as one."""
        known = list(parts)
        return cls(
            math.fsum(part.nats for part in known),
            sum(part.tokens for part in known),
            sum(part.text_bytes for part in known),
        )

    @property
    def loss(self) -> float:
        """Token mean in nats; NaN without a token."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte of text, which models with other tokenizers can be compared by; NaN without text."""
        return self.nats / math.log(2) / self.text_bytes if self.text_bytes else math.nan


def supervised_metrics(
    batch: Batch, update: UpdateResult, text_bytes: int, seconds: Mapping[str, float]
) -> Metrics:
    """Everything that metrics.jsonl says about a step.

    sft/loss, sft/bits_per_byte    of the trained tokens before the update; the loss is a token mean in nats
    entropy                        token mean, nats
    grad_norm, learning_rate       as the update returned them
    tokens/trained, /total, /per_second    total: context included; per second of the whole step
    conversations                  of the step: the last of an epoch may have fewer
    time/*                         as given

    Args:
        batch: what was trained.
        update: its columns have one value a trained token, in batch order.
        text_bytes: UTF-8 bytes of the trained tokens' text.
        seconds: `PhaseClock.take()`.
    """
    trained = batch.trained_tokens
    cost = Surprise(-math.fsum(update.columns["old"]), trained, text_bytes)
    step_seconds = seconds.get("time/step", 0.0)
    return {
        "sft/loss": cost.loss,
        "sft/bits_per_byte": cost.bits_per_byte,
        "entropy": math.fsum(update.columns["entropy"]) / trained if trained else math.nan,
        "grad_norm": update.grad_norm,
        "learning_rate": update.learning_rate,
        "tokens/trained": float(trained),
        "tokens/total": float(len(batch.ids)),
        "tokens/per_second": len(batch.ids) / step_seconds if step_seconds > 0 else math.nan,
        "conversations": float(len(batch.lengths)),
        **seconds,
    }


def held_out_metrics(costs: Iterable[tuple[str, Surprise]]) -> Metrics:
    """`eval/<env>/loss`, `/bits_per_byte`, `/tokens` (trained ones) and `/conversations` for each env."""
    by_env: dict[str, list[Surprise]] = {}
    for env, cost in costs:
        by_env.setdefault(env, []).append(cost)
    metrics: Metrics = {}
    for env, parts in by_env.items():
        whole = Surprise.total(parts)
        metrics |= {
            f"eval/{env}/loss": whole.loss,
            f"eval/{env}/bits_per_byte": whole.bits_per_byte,
            f"eval/{env}/tokens": float(whole.tokens),
            f"eval/{env}/conversations": float(len(parts)),
        }
    return metrics
