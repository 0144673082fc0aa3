"""A run of `distill` or `rl`: tools, rewards and engine around the loop of train/on_policy.py."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rnow_core.build.assemble import Built, build
from rnow_core.build.fixed import Fixed, samples_plainly
from rnow_core.build.phases import Clock
from rnow_core.build.tools import make_tools, secrets_of
from rnow_core.config.schema import Config
from rnow_core.data.batches import PromptBatches
from rnow_core.env.rewards import ProjectRewards, require_verifiers
from rnow_core.jobs.job import Ingredients, told_seldom
from rnow_core.jobs.summary import summarise
from rnow_core.models.seams import Learner
from rnow_core.preflight.report import Project
from rnow_core.preflight.selfcheck import require, self_check, tolerances
from rnow_core.rollout.passes import Scoring
from rnow_core.track.events import Event
from rnow_core.train.between_steps import stop_if_requested
from rnow_core.train.on_policy import (
    EvalPlan,
    OnPolicyRun,
    evaluate_baseline,
    evaluate_student,
    train_on_policy,
)


@dataclass(frozen=True)
class OnPolicyJob:
    """`Job` of a student that learns from its own samples."""

    run: OnPolicyRun
    built: Built
    rewards: ProjectRewards

    @property
    def learner(self) -> Learner:
        """What is trained."""
        return self.run.learner

    async def start(self, begun: int) -> None:
        """Prove the parts, write checkpoint 0, measure before."""
        run = self.run
        evaluated = run.evaluation.prompts if run.evaluation else ()
        await self.built.tools.start([*run.prompts.prompts, *evaluated])
        await self.built.engine.start(run.learner, told_seldom(run.record.emit))
        await self._prove()
        run.record.folder.write_status("running", begun, run.total_steps)
        if begun > 0:
            return
        run.record.save(0, run.learner)
        if run.evaluation:
            stop_if_requested(run, 0)
            rollouts = await evaluate_student(run, run.evaluation, 0)
            await evaluate_baseline(run, run.evaluation, rollouts)

    async def train(self, first_step: int) -> None:
        """Train to the end."""
        await train_on_policy(self.run, first_step)

    async def close(self) -> None:
        """End rewards, tools, engine and ranks."""
        await self.rewards.close()
        await self.built.close()

    def summary(self, seconds: float) -> dict[str, Any]:
        """The figures of the finished run."""
        return summarise(self.run, seconds)

    async def _prove(self) -> None:
        """The self-checks on the real weights; each is told, a failed one stops the run."""
        run, built = self.run, self.built
        results = await self_check(
            run.prompts.batch(1),
            run.parts,
            lambda requests: built.device.run(built.learner.logprobs, requests),
            built.engine.student_as_teacher,
            tolerances(half_precision=built.half_precision, served=run.adapters is not None),
            built.engine.student_here,
        )
        for result in results:
            run.record.emit(Event("check", asdict(result)))
        require(results)
        run.record.clock.take()


def on_policy_job(given: Ingredients) -> OnPolicyJob:
    """Load the models of a run. Called outside an event loop."""
    rewards, built = load_parts(
        given.project, given.fixed, given.run_dir, given.total_steps, given.record.clock.phase
    )
    return OnPolicyJob(_run_of(given, built), built, rewards)


def load_parts(
    project: Project, fixed: Fixed, run_dir: Path, total_steps: int, clock: Clock
) -> tuple[ProjectRewards, Built]:
    """Rewards, tools and models of a project; nothing is started yet. Logs go below `run_dir`."""
    config = project.loaded.config
    named = (name for prompt in (*project.prompts, *project.eval_prompts) for name in prompt.rewards)
    require_verifiers(named, project.rewards)
    rewards = ProjectRewards(
        project.folder,
        timeout=config.rollout.reward_timeout,
        log=run_dir / "logs" / "rewards.log",
        secrets=secrets_of(config),
        sandboxes=config.sandbox.engine != "none",
    )
    tools = make_tools(
        config,
        project.tools,
        project.renderer,
        sandboxed_rewards=any(info.sandbox for info in project.rewards.values()),
        project=project.folder,
        run_dir=run_dir,
    )
    built = build(
        config,
        fixed,
        project_dir=project.folder,
        run_dir=run_dir,
        renderer=project.renderer,
        context_window=project.context_window,
        rewards=rewards,
        tools=tools,
        total_steps=total_steps,
        clock=clock,
        teacher_windows=project.teacher_windows,
    )
    return rewards, built


def scoring_of(config: Config) -> Scoring:
    """How the config judges samples."""
    wanted = config.eval
    return Scoring(wanted.group_size, tuple(dict.fromkeys(wanted.pass_at)), wanted.pass_threshold)


def _run_of(given: Ingredients, built: Built) -> OnPolicyRun:
    project, config = given.project, given.project.loaded.config
    evaluation = (
        EvalPlan(
            name=config.eval_name,
            prompts=project.eval_prompts,
            group_size=config.eval.group_size,
            batch_size=config.eval.batch_size,
            every=config.trainer.eval_step,
            parts=built.evaluation,
            baseline=built.baseline,
            scoring=scoring_of(config),
            stop_at_gap_closed=config.eval.stop_at_gap_closed,
        )
        if project.eval_prompts
        else None
    )
    return OnPolicyRun(
        prompts=PromptBatches(project.prompts, config.data.batch_size, config.seed),
        group_size=config.data.group_size,
        total_steps=given.total_steps,
        save_every=config.trainer.save_step,
        mask_truncated=config.rollout.mask_truncated,
        adv_tau=config.weights.adv_tau,
        parts=built.training,
        learner=built.learner,
        device=built.device,
        adapters=built.engine.adapters,
        evaluation=evaluation,
        record=given.record,
        stop=given.stop,
        watch_mismatch=samples_plainly(config),
        stability=config.stability,
        async_level=built.async_level,
    )
