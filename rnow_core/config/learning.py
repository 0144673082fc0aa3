"""The sections that say how it learns: algorithm, trainer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rnow_core.config.section import Count, PlannedCount, Section


class AlgorithmConfig(Section):
    """The advantage, the policy loss, and the form of the teacher's signal."""

    loss_fn: Literal["ppo", "importance_sampling", "cispo"] = Field(
        default="ppo", description="Policy loss; with one update a batch all three have the same gradient."
    )
    adv_estimator: Literal["grpo"] = Field(
        default="grpo", description="Task advantage: reward minus the mean of the prompt's group."
    )
    kl_penalty_coef: float | None = Field(
        default=None,
        gt=0,
        description="b: short for adv_tau 0, teacher_tau b, student_tau b; 0.1 when nothing is set.",
    )
    adv_tau: float | None = Field(default=None, ge=0, description="Weight of the task advantage.")
    teacher_tau: float | None = Field(default=None, ge=0, description="Weight of the teacher's logprob.")
    student_tau: float | None = Field(
        default=None, ge=0, description="Weight of the student's own logprob (the entropy term)."
    )
    clip_min: float | None = Field(
        default=None,
        description="Lower bound of the teacher's part of a token's advantage, before the discount.",
    )
    clip_max: float | None = Field(
        default=None,
        description="Upper bound of the teacher's part of a token's advantage, before the discount.",
    )
    kl_discount: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Discount that sums later tokens' signals into a token's; 0 = its own.",
    )
    signal: Literal["sampled", "topk", "full"] = Field(
        default="sampled",
        description="sampled = the sampled token's logprobs as advantage; topk, full = a divergence as loss.",
    )
    divergence: Literal["reverse", "forward", "jsd"] = Field(
        default="reverse", description="The divergence of signal topk and full."
    )
    topk: Count = Field(default=64, description="Teacher tokens a position with signal topk.")
    beta_jsd: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Teacher's share in jsd. At 0 and 1 jsd is always 0: use divergence forward or reverse.",
    )
    tis_cap: float = Field(default=2.0, gt=0, description="Cap of the trainer/sampler importance weight.")
    cispo_cap: float = Field(default=4.0, gt=0, description="Cap of cispo's importance weight.")
    skip_verification: bool = Field(
        default=False, description="Compute no rewards of training rollouts at all; evaluations still do."
    )


class TrainerConfig(Section):
    """Length of the run, optimizer, checkpoints."""

    num_epochs: Count = Field(default=1, description="Passes over the training rows.")
    max_steps: Count | None = Field(default=None, description="Stop after so many steps; null = all epochs.")
    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate of AdamW.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="Learning rate after the warm-up."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps from 0 to the peak learning rate.")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    save_step: Literal[-1] | Count = Field(
        default=-1, description="-1 = a checkpoint at the end only; N = also every N steps."
    )
    eval_step: Count | None = Field(
        default=None, description="Evaluate every N steps, besides start and end."
    )
    micro_batch_tokens: PlannedCount = Field(
        default=None, description="Tokens of a training micro-batch; null = the planner decides."
    )
    updates_per_batch: Count = Field(default=1, description="Whole passes over a step's batch.")
    async_level: Literal["auto", 0, 1] = Field(
        default="auto", description="Versions that rollouts may be behind the learner: auto, 0 or 1."
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        default="auto", description="Recompute activations in the backward pass: auto, true or false."
    )
    train_on: Literal["all_assistant", "last_assistant"] = Field(
        default="all_assistant", description="sft: which assistant messages are trained."
    )
