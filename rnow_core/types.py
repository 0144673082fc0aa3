"""The records that flow through a step. Frozen: a stage returns new ones. Standard library only.

Axis suffixes where nesting exists: P prompts, G rollouts of a prompt, T tokens of a sequence, N trained tokens.
All logprobs are natural logs at temperature 1 over the whole vocabulary of the model that gave them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Message = dict[str, Any]
"""One chat message as JSON: role, content, and for tools tool_calls / tool_call_id."""

StopReason = Literal["stop", "length", "context", "no_room", "max_turns", "tool_errors", "deadline"]
"""Why a completion or an episode ended. `stop`: a stop token was sampled, and in an episode no turn follows.
`length`: max_tokens reached. `context`: the context window cut the reply. Of episodes only: what a tool said does not
fit behind a complete reply (`no_room`); `max_turns` reached; too many malformed tool calls (`tool_errors`); `deadline`
passed, what was complete by then stays.
"""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of a data file. `index` counts rows from 0 over all files of the run; `line` counts from 1."""

    index: int
    messages: tuple[Message, ...]
    file: str
    line: int
    dataset: int = 0
    rewards: tuple[str, ...] = ()
    tools: tuple[str, ...] | None = None
    docker: str | None = None
    docker_env: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    teacher_context: str | None = None
    """What the row's teacher sees in place of `teacher.context`, as written; "" for nothing."""
    env: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The keys of the row that rnow does not know, as written."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Everything that shapes sampling, in full: nothing is left to a model folder's generation_config.json."""

    max_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a sampler returns for one request: the sampled ids (a sampled stop id included) and their logprobs."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: StopReason
    policy: str


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """A published state of the student. `path` is None where the sampler shares the learner's weights."""

    name: str
    path: Path | None = None


def version_name(step: int, *, rolled_back: bool = False) -> str:
    """What the student is called after `step` updates, or behind them when it got older weights back."""
    return f"student-{'back-' if rolled_back else ''}{step:06d}"


def version_step(name: str) -> int:
    """The updates behind a version that `version_name` named."""
    return int(name.rsplit("-", 1)[1])


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Ask for log p(ids[t] | ids[:t]) for every t >= start. 1 <= start <= len(ids)."""

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class SignalWish:
    """What the learner needs of a teacher beside the logprobs of sampled ids: the `top` most likely ids of every
    position among the student's `rows`, with their logprobs; or, where `top` is None, its hidden states.
    """

    top: int | None
    rows: int


class TeacherSignal(Protocol):
    """What a teacher says of tokens beyond one logprob each; only models/ looks inside."""

    def __len__(self) -> int:
        """Tokens."""
        ...

    def take(self, rows: Sequence[int]) -> TeacherSignal:
        """These tokens only."""
        ...


@dataclass(frozen=True, slots=True)
class SignalScore:
    """A teacher's answer to one request where more is wished for: log p of ids[start:], and a signal of as many."""

    logprobs: Sequence[float]
    signal: TeacherSignal


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One growing list of ids. `mask` is True on sampled tokens; `mu` is the sampler's logprob there, 0 elsewhere."""

    ids_T: tuple[int, ...]
    mask_T: tuple[bool, ...]
    mu_T: tuple[float, ...]
    prompt_length: int

    @property
    def response_ids(self) -> tuple[int, ...]:
        """Every id after the first prompt, glue included."""
        return self.ids_T[self.prompt_length :]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled episode of one prompt."""

    prompt: Prompt
    sample: int
    messages: tuple[Message, ...]
    trajectory: Trajectory
    prompt_text: str
    stop_reason: StopReason
    policy: str
    seconds: float
    turns_T: tuple[int, ...] = ()
    """Per token, the number of the sampled turn (from 1) that it belongs to; 0 where the mask is False."""
    agentic: bool = False
    """Whether its row had tools, and turns to use them."""
    tool_calls: int = 0
    tool_errors: int = 0
    """Tool calls of the episode, and how many of them gave an error or were malformed."""

    @property
    def truncated(self) -> bool:
        """True when the last reply was cut instead of ended by the student."""
        return self.stop_reason in ("length", "context")


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """A rollout with what the teacher and the rewards say of it.

    `teacher_logprobs_T` is aligned with `rollout.trajectory.ids_T`: 0.0 on prompt positions, NaN on tokens that do not
    fit into what the teacher reads. It is None when the run has no teacher. `task_advantage` is reward minus the mean
    of the group's survivors.
    """

    rollout: Rollout
    teacher: str | None = None
    teacher_prompt_text: str | None = None
    teacher_logprobs_T: tuple[float, ...] | None = None
    rewards: Mapping[str, float] = field(default_factory=dict)
    reward: float | None = None
    task_advantage: float = 0.0
    signal: TeacherSignal | None = None
    """Of the sampled tokens that the teacher scored, in order; None where the run uses sampled logprobs alone."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Ragged rows, flat: row r owns the next `lengths[r]` entries of every per-token column.

    Padding and packing are the learner's business. The columns are aligned with `ids`; where `mask` is False the
    others are never read. `teacher` is empty when the run has no teacher, and NaN where it gave a token no value:
    such a token is trained by its reward alone.

    `signals` is empty, or has one entry a row: of its tokens that are trained and scored, in order.
    """

    ids: Sequence[int]
    lengths: Sequence[int]
    mask: Sequence[bool]
    mu: Sequence[float]
    teacher: Sequence[float]
    task: Sequence[float]
    signals: Sequence[TeacherSignal] = ()

    @property
    def trained_tokens(self) -> int:
        """The denominator of the loss: trained tokens of the whole step."""
        return sum(self.mask)


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What one update did. `columns` holds one value a *trained* token (N, in batch order) for each name:
    `old`, `advantage`, `clipped`, `entropy`, and where the batch has signals `divergence` (NaN: nothing was scored).
    """

    loss: float
    grad_norm: float
    learning_rate: float
    micro_batches: int
    columns: Mapping[str, Sequence[float]]
