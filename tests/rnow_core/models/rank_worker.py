"""A follower for tests: the learner of the `learner` fixture, built from what rank 0 sends."""

import sys

import torch
from learner_reference import TAU, student

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.objective import PolicyObjective
from rnow_core.models.device import DeviceThread
from rnow_core.models.follower import follow_commands
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.optimizer import OptimizerSettings
from rnow_core.models.rank_processes import join_ranks


def make(ranks, device: DeviceThread, setup: dict) -> HFLearner:
    """A learner of any rank. A follower starts from other weights, so that rank 0's must win."""
    objective = PolicyObjective(
        adv_tau=1.0, teacher_tau=TAU, student_tau=TAU, kl_discount=setup.get("kl_discount", 0.0)
    )
    learner = HFLearner(
        student(setup["path"], seed=5 + ranks.rank, rank=setup.get("rank", 4)),
        device,
        objective=objective,
        token_logprobs=token_logprobs,
        settings=OptimizerSettings(**({"learning_rate": 1e-2, "total_steps": 10} | setup["settings"])),
        micro_batch_tokens=setup.get("tokens"),
        ranks=ranks,
        term=setup.get("term"),
    )
    if ranks.rank:
        with torch.no_grad():
            for weight in learner._lm.trainable_parameters().values():
                weight.add_(1.0)
    learner.align()
    return learner


def main() -> None:
    """Join, build, follow; with `weights=FILE` in the set-up this rank's weights are written there at the end."""
    ranks = join_ranks()
    _, (setup,) = ranks.next_command()
    device = DeviceThread(threads=1)
    learner = make(ranks, device, setup)
    if setup.get("fail") == ranks.rank:
        learner._objective = None
    follow_commands(learner, ranks)
    if "weights" in setup:
        weights = {name: w.detach() for name, w in learner._lm.trainable_parameters().items()}
        torch.save(weights, f"{setup['weights']}-{ranks.rank}.pt")
    device.close()


if __name__ == "__main__":
    sys.exit(main())
