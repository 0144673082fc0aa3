"""A run of `sft`: a trainer around the loop of train/off_policy.py, and an engine where held-out rows have rewards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rnow_core.build.assemble import Built
from rnow_core.build.trainer import Trainer, build_trainer
from rnow_core.data.batches import PromptBatches
from rnow_core.env.rewards import ProjectRewards
from rnow_core.jobs.job import Ingredients, told_seldom
from rnow_core.jobs.on_policy import load_parts, scoring_of
from rnow_core.jobs.summary import summarise_losses
from rnow_core.models.seams import Learner
from rnow_core.preflight.conversations import conversations_of
from rnow_core.preflight.held_out import reply_prompts
from rnow_core.preflight.report import Project
from rnow_core.train.between_steps import stop_if_requested
from rnow_core.train.off_policy import HeldOut, OffPolicyRun, Replies, evaluate_held_out, train_off_policy


@dataclass(frozen=True)
class Sampling:
    """What samples and judges replies: the parts of a run whose learner is the trainer's."""

    rewards: ProjectRewards
    built: Built


@dataclass(frozen=True)
class OffPolicyJob:
    """`Job` of a student that imitates given conversations."""

    run: OffPolicyRun
    trainer: Trainer
    sampling: Sampling | None

    @property
    def learner(self) -> Learner:
        """What is trained."""
        return self.run.learner

    async def start(self, begun: int) -> None:
        """Start what samples, write checkpoint 0, measure before."""
        run = self.run
        if self.sampling and run.evaluation and run.evaluation.replies:
            await self.sampling.built.tools.start(run.evaluation.replies.prompts)
            await self.sampling.built.engine.start(run.learner, told_seldom(run.record.emit))
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
        """End what samples, and the ranks."""
        if self.sampling is None:
            await self.trainer.close()
            return
        await self.sampling.rewards.close()
        await self.sampling.built.close()

    def summary(self, seconds: float) -> dict[str, Any]:
        """The figures of the finished run."""
        return summarise_losses(self.run, seconds)


def off_policy_job(given: Ingredients) -> OffPolicyJob:
    """Load the student of a run. Called outside an event loop."""
    project, config = given.project, given.project.loaded.config
    sampling = _sampling(given)
    trainer = sampling.built.trainer if sampling else _trainer(given)
    run = OffPolicyRun(
        rows=PromptBatches(project.prompts, config.data.batch_size, config.seed),
        conversations=project.conversations or conversations_of(config, project.renderer, project.tools),
        total_steps=given.total_steps,
        save_every=config.trainer.save_step,
        learner=trainer.learner,
        device=trainer.device,
        evaluation=_evaluation(project, sampling) if project.eval_prompts else None,
        phase=sampling.built.evaluation.phase if sampling else given.record.clock.phase,
        record=given.record,
        stop=given.stop,
    )
    return OffPolicyJob(run, trainer, sampling)


def _trainer(given: Ingredients) -> Trainer:
    project = given.project
    return build_trainer(
        project.loaded.config,
        given.fixed,
        project_dir=project.folder,
        run_dir=given.run_dir,
        total_steps=given.total_steps,
    )


def _sampling(given: Ingredients) -> Sampling | None:
    """The parts of the evaluation by rewards. None without rewards, and in a run that began without."""
    if not given.project.rewards or not (given.fixed.kv_tokens or given.fixed.engine == "vllm"):
        return None
    project = _asked_only(given.project)
    parts = load_parts(project, given.fixed, given.run_dir, given.total_steps, given.record.clock.phase)
    return Sampling(*parts)


def _asked_only(project: Project) -> Project:
    """The project as an evaluation sees it: held-out prompts, tools if there are turns for them, and no teacher."""
    config = project.loaded.config
    return replace(
        project,
        loaded=replace(project.loaded, config=config.model_copy(update={"teacher": []})),
        prompts=(),
        eval_prompts=reply_prompts(project.eval_prompts),
        tools=project.tools if config.rollout.turns(tools=True) > 1 else (),
    )


def _evaluation(project: Project, sampling: Sampling | None) -> HeldOut:
    config = project.loaded.config
    replies = (
        Replies(
            prompts=reply_prompts(project.eval_prompts),
            scoring=scoring_of(config),
            parts=sampling.built.evaluation,
            adapters=sampling.built.engine.adapters,
        )
        if sampling
        else None
    )
    return HeldOut(
        config.eval_name, project.eval_prompts, config.eval.batch_size, config.trainer.eval_step, replies
    )
