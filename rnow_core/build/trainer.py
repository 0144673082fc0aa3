"""Config -> the student, its learner and the ranks that train it: all that `sft` needs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from rnow_core.build.fixed import Fixed
from rnow_core.build.learner import announce, load_student_of, make_learner
from rnow_core.config.schema import Config
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.device import DeviceThread, device_named, use_device
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.rank_processes import start_ranks
from rnow_core.models.ranks import OneRank


@dataclass(frozen=True)
class Trainer:
    """What trains: the thread that it computes in, the other ranks, the student and its learner."""

    device: DeviceThread
    ranks: OneRank
    student: CausalLM
    learner: HFLearner

    async def close(self) -> None:
        """End the other ranks and the thread."""
        await self.ranks.close()
        self.device.close()


def build_trainer(
    config: Config, fixed: Fixed, *, project_dir: Path, run_dir: Path, total_steps: int
) -> Trainer:
    """Start the training ranks and load the student. Called outside an event loop; nothing is left when it fails."""
    placement = fixed.placement
    ranks = start_ranks(placement.ranks, gpus=placement.trainer, log_folder=run_dir / "logs")
    try:
        announce(ranks, config, fixed, project_dir, total_steps)
        device = DeviceThread(fixed.threads)
        device.call(use_device, device_named(fixed.device))
        student = device.call(load_student_of, config, fixed, project_dir)
        learner = make_learner(config, fixed, student, device, total_steps, ranks)
    except BaseException:
        asyncio.run(ranks.close())
        raise
    return Trainer(device, ranks, student, learner)
