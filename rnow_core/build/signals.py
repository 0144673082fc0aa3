"""Config -> what `algorithm.signal` needs: the divergence of the loss, what teachers are asked for, their head."""

from __future__ import annotations

from rnow_core.algo.divergence_loss import DivergenceLoss
from rnow_core.algo.events import Divergence
from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.output_head import OutputHead
from rnow_core.models.signals import SignalTerm
from rnow_core.types import SignalWish


def with_divergence(config: Config) -> bool:
    """Whether the teacher's part of the loss is a divergence instead of an advantage."""
    return config.dataset_type == "distill" and config.algorithm.signal != "sampled"


def term_of(config: Config) -> SignalTerm | None:
    """The divergence of the loss, still without the teacher's head; None where there is none."""
    if not with_divergence(config):
        return None
    algorithm, weights = config.algorithm, config.weights
    divergence = Divergence(algorithm.divergence, algorithm.beta_jsd)
    return SignalTerm(DivergenceLoss(divergence, weights.teacher_tau, policy=weights.adv_tau > 0.0))


def wish_of(config: Config, renderer: Renderer, student: CausalLM) -> SignalWish | None:
    """What teachers are asked for in training; at most as many ids as the tokenizer has: all teachers have those."""
    if not with_divergence(config):
        return None
    if config.algorithm.signal == "full":
        return SignalWish(None, student.vocab_rows)
    return SignalWish(min(config.algorithm.topk, renderer.vocab_size), student.vocab_rows)


def served_top(config: Config) -> int:
    """How many likeliest ids a teacher's server is asked for."""
    return config.algorithm.topk if with_divergence(config) and config.algorithm.signal == "topk" else 0


def needs_head(config: Config) -> bool:
    """Whether the learner reads a teacher's hidden states."""
    return with_divergence(config) and config.algorithm.signal == "full"


def give_head(learner: HFLearner, head: OutputHead | None) -> None:
    """Let a learner that trains on a teacher's hidden states read them."""
    if learner.term is not None:
        learner.term.teacher_head = head
