"""A run of `sft`: a trainer around the loop of train/off_policy.py, without an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rnow_core.build.trainer import Trainer, build_trainer
from rnow_core.data.batches import PromptBatches
from rnow_core.jobs.job import Ingredients
from rnow_core.jobs.summary import summarise_losses
from rnow_core.models.seams import Learner
from rnow_core.preflight.conversations import conversations_of
from rnow_core.train.between_steps import stop_if_requested
from rnow_core.train.off_policy import HeldOut, OffPolicyRun, evaluate_held_out, train_off_policy


@dataclass(frozen=True)
class OffPolicyJob:
    """`Job` of a student that imitates given conversations."""

    run: OffPolicyRun
    trainer: Trainer

    @property
    def learner(self) -> Learner:
        """What is trained."""
        return self.run.learner

    async def start(self, begun: int) -> None:
        """Write checkpoint 0, measure before."""
        run = self.run
        run.record.folder.write_status("running", begun, run.total_steps)
        if begun == 0:
            run.record.save(0, run.learner)
        run.record.clock.take()
        if begun == 0 and run.evaluation:
            stop_if_requested(run, 0)
            await evaluate_held_out(run, run.evaluation, 0)

    async def train(self, first_step: int) -> None:
        """Train to the end."""
        await train_off_policy(self.run, first_step)

    async def close(self) -> None:
        """End the ranks."""
        await self.trainer.close()

    def summary(self, seconds: float) -> dict[str, Any]:
        """The figures of the finished run."""
        return summarise_losses(self.run, seconds)


def off_policy_job(given: Ingredients) -> OffPolicyJob:
    """Load the student of a run. Called outside an event loop."""
    project, config = given.project, given.project.loaded.config
    trainer = build_trainer(
        config,
        given.fixed,
        project_dir=project.folder,
        run_dir=given.run_dir,
        total_steps=given.total_steps,
    )
    evaluation = (
        HeldOut(config.eval_name, project.eval_prompts, config.eval.batch_size, config.trainer.eval_step)
        if project.eval_prompts
        else None
    )
    run = OffPolicyRun(
        rows=PromptBatches(project.prompts, config.data.batch_size, config.seed),
        conversations=project.conversations or conversations_of(config, project.renderer, project.tools),
        total_steps=given.total_steps,
        save_every=config.trainer.save_step,
        learner=trainer.learner,
        device=trainer.device,
        evaluation=evaluation,
        record=given.record,
        stop=given.stop,
    )
    return OffPolicyJob(run, trainer)
