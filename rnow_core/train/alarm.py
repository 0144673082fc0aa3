"""The correctness alarm between sampler and learner."""

from __future__ import annotations

from collections.abc import Callable

from rnow_core.errors import RunFailed

WARN = 0.01
STOP = 0.05


def check_mismatch(step: int, mismatch_kl: float, warn: Callable[[str, str], None]) -> None:
    """Warn above 0.01, stop above 0.05: the sampler then draws from another policy than the one that learns.

    Args:
        step: the step, for the message.
        mismatch_kl: token mean of exp(d) - d - 1, d = learner's minus sampler's logprob, in nats.
        warn: takes message and hint.

    Raises:
        RunFailed: the mismatch is above the stop threshold.
    """
    said = f"step {step}: mismatch_kl is {mismatch_kl:.4f}"
    if mismatch_kl > STOP:
        raise RunFailed(
            f"{said}, above {STOP}: sampler and learner disagree about the sampled tokens",
            "the last checkpoint is good; try model.dtype: float32, and report this with config.json",
        )
    if mismatch_kl > WARN:
        warn(f"{said}, above {WARN}: sampler and learner drift apart", f"the run stops above {STOP}")
