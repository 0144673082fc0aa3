"""The whole config: `Config`, its JSON schema, and a config as data with every default filled in."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from rnow_core.config.inputs import DataConfig, ModelConfig, TeacherConfig
from rnow_core.config.learning import AlgorithmConfig, TrainerConfig
from rnow_core.config.machine import LoggingConfig, ResourcesConfig
from rnow_core.config.rollouts import EvalConfig, RolloutConfig, SandboxConfig
from rnow_core.config.section import OneOrMany, Section, as_list
from rnow_core.config.stability import StabilityConfig
from rnow_core.config.weights import Weights, resolve_weights

DatasetType = Literal["distill", "sft", "rl"]
Teachers = Annotated[list[TeacherConfig], BeforeValidator(lambda value: as_list(value) or []), OneOrMany()]


class Config(Section):
    """config.yml. Sections that the file leaves out have their defaults; `teacher` is always a list."""

    schema_url: str | None = Field(
        default=None, alias="$schema", description="For editors: where the JSON schema lies."
    )
    project_name: str = Field(default="", description="Name of the project.")
    description: str = Field(default="", description="A note for people.")
    seed: int = Field(default=0, ge=0, description="All randomness of the run comes from it.")
    dataset_type: DatasetType = Field(
        description="distill = learn from a teacher's logprobs, sft = from given replies, rl = from rewards."
    )
    data: DataConfig = Field(default_factory=DataConfig, description="Training and held-out rows.")
    model: ModelConfig = Field(description="The student: the model that is trained.")
    teacher: Teachers = Field(default=[], description="The teacher, or a list of teachers with names.")
    algorithm: AlgorithmConfig = Field(default_factory=AlgorithmConfig, description="Advantages and loss.")
    rollout: RolloutConfig = Field(default_factory=RolloutConfig, description="Sampling and turns.")
    trainer: TrainerConfig = Field(
        default_factory=TrainerConfig, description="Optimizer, length, checkpoints."
    )
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig, description="GPUs.")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="Evaluation.")
    stability: StabilityConfig = Field(
        default_factory=StabilityConfig, description="Monitors of what the student samples."
    )
    sandbox: SandboxConfig = Field(default_factory=SandboxConfig, description="Containers.")
    logging: LoggingConfig = Field(default_factory=LoggingConfig, description="Metrics and traces.")
    stages: list[dict[str, Any]] = Field(
        default=[],
        description="Overlays on this config that run one after the other, each with its dataset_type.",
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, data: Any) -> Any:
        """`rollout:` with nothing below it is an empty section, not null."""
        if not isinstance(data, dict):
            return data
        empty: dict[str, Any] = {name: {} for name in SECTIONS if name in data and data[name] is None}
        if data.get("stages", ()) is None:
            empty["stages"] = []
        return {**data, **empty}

    @property
    def weights(self) -> Weights:
        """The taus in force; see `resolve_weights`."""
        return resolve_weights(self)

    @property
    def eval_files(self) -> list[str]:
        """What to evaluate on: `eval.file` or `data.val_file`; empty when neither is set."""
        return self.eval.file or self.data.val_file or []

    @property
    def eval_name(self) -> str:
        """`<env>` in metric names where a row names no `env`: `eval.name`, or the first file's stem."""
        if self.eval.name:
            return self.eval.name
        return PurePath(self.eval_files[0]).stem if self.eval_files else "val"

    def stage_configs(self) -> list[Config]:
        """One whole config a stage, in order; without stages the config itself."""
        base = self.model_dump(by_alias=True, exclude_unset=True, exclude={"stages"})
        return [Config.model_validate(merge(base, stage)) for stage in self.stages] or [self]


SECTIONS = (
    *("data", "model", "algorithm", "rollout", "trainer", "resources", "eval"),
    *("stability", "sandbox", "logging"),
)


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`overlay` on `base`: mappings are merged, everything else (lists too) is replaced.

    A list of one mapping counts as that mapping: one teacher may be written either way.
    """
    merged = dict(base)
    for key, value in overlay.items():
        below = merged.get(key)
        if isinstance(below, list) and len(below) == 1:
            below = below[0]
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def json_schema() -> dict[str, Any]:
    """The JSON schema of config.yml (draft 2020-12)."""
    schema = Config.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rnow config.yml", **schema}


def resolved(config: Config) -> dict[str, Any]:
    """The config as JSON-ready data with every default filled in, nulls kept, and the taus that it means.

    It loads again to a config with the same meaning: `kl_penalty_coef` has become the taus it stands for.
    """
    data = config.model_dump(mode="json", by_alias=True, exclude={"schema_url"})
    if config.dataset_type != "sft" and not config.stages:
        weights = config.weights
        data["algorithm"] |= {
            "kl_penalty_coef": None,
            "adv_tau": weights.adv_tau,
            "teacher_tau": weights.teacher_tau,
            "student_tau": weights.student_tau,
        }
    return data
