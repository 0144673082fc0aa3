"""The sections that say where it runs and who is told: resources, logging."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rnow_core.config.section import PlannedCount, Section, Text

Gpus = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None


class ResourcesConfig(Section):
    """Which GPU does what. Empty: the planner decides and prints why."""

    inference_gpus: Gpus = Field(default=None, description="GPU numbers that sample.")
    teacher_gpus: Gpus = Field(default=None, description="GPU numbers that hold the teacher.")
    trainer_gpus: Gpus = Field(default=None, description="GPU numbers that train.")
    inference_tensor_parallel: PlannedCount = Field(default=None, description="GPUs that share one sampler.")
    teacher_tensor_parallel: PlannedCount = Field(default=None, description="GPUs that share one teacher.")
    trainer_tensor_parallel: PlannedCount = Field(default=None, description="GPUs that share one learner.")
    inference_data_parallel: PlannedCount = Field(default=None, description="Copies of the sampler.")
    teacher_data_parallel: PlannedCount = Field(default=None, description="Copies of the teacher.")
    trainer_data_parallel: PlannedCount = Field(default=None, description="Ranks of the learner.")


class LoggingConfig(Section):
    """Where metrics go besides the run folder, and how many rollouts are kept."""

    wandb_project: Text | None = Field(default=None, description="Weights & Biases project; null = off.")
    wandb_name: Text | None = Field(default=None, description="Name of the W&B run; null = the run's name.")
    trackio: bool = Field(default=False, description="Send metrics to trackio.")
    tensorboard: bool = Field(default=False, description="Write TensorBoard event files.")
    keep_rollouts: int = Field(default=64, ge=0, description="Rollouts kept a step, chosen by the seed.")
