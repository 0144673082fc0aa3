"""What `rnow generate` finds out about its prompts before anything is bought: repeats, overlap, rewards, student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnow_core.build.teacher_tools import project_config, project_folder
from rnow_core.build.tools import secrets_of
from rnow_core.config.load import LoadedConfig
from rnow_core.config.rollouts import RolloutConfig
from rnow_core.config.schema import Config
from rnow_core.data.overlap import EvalTexts, Kind
from rnow_core.data.prompt_file import SourcePrompt, content_hash, user_text, user_texts
from rnow_core.env.define import RewardInfo
from rnow_core.env.load import REWARDS_FILE
from rnow_core.env.rewards import ProjectRewards, inspect_rewards, known_rewards, require_verifiers
from rnow_core.env.toolbox import ToolBox
from rnow_core.errors import FindingsError, RnowError, UsageError
from rnow_core.jobs.generate_student import find_student
from rnow_core.preflight.rows import unknown_rewards
from rnow_core.rollout.judge import Judge, Student
from rnow_core.rollout.verdict import Reason
from rnow_core.track.jsonable import dumps
from rnow_core.types import Message, Prompt

if TYPE_CHECKING:
    from rnow_core.jobs.generate import GenerateRequest

SHOWN_LINES = 5


@dataclass(frozen=True)
class Checked:
    """The prompts, with the rewards that score their answers, and what is known of them.

    rejected: id of a prompt that is not asked about -> reason and detail. said: for the user, before anything is
    bought; `summary` says it again at the end. rewards: by name, empty where nothing is scored.
    """

    folder: Path
    config: Config | None
    prompts: Sequence[SourcePrompt]
    rejected: Mapping[str, tuple[Reason, str]] = field(default_factory=dict)
    rewards: Mapping[str, RewardInfo] = field(default_factory=dict)
    student: Student | None = None
    said: Sequence[str] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)

    def identity(self, request: GenerateRequest) -> str:
        """A hash of what the verdict on a conversation follows from, the row's rewards apart."""
        path = self.folder / REWARDS_FILE
        source = path.read_text("utf-8", "replace") if self.rewards and path.is_file() else ""
        student = (self.student.renderer.source, self.student.window) if self.student else None
        return sha256(dumps([source, request.min_reward, student]).encode()).hexdigest()[:8]


def check_prompts(request: GenerateRequest, prompts: Sequence[SourcePrompt]) -> Checked:
    """Everything that can be known without asking the teacher.

    Raises:
        UsageError: an option needs something that is not there: rewards, an evaluation file.
        FindingsError: config.yml, rewards.py or the evaluation file cannot be read.
    """
    folder = project_folder(request.tools)
    loaded = project_config(folder)
    rewards: Mapping[str, RewardInfo] = {}
    if request.best_of > 1 or request.min_reward is not None:
        prompts, rewards = _with_rewards(request, prompts, folder)
    twins = _repeats(prompts)
    matches, file = _overlap(request, prompts, loaded)
    student, about_student = find_student(request.student, loaded)
    rejected: dict[str, tuple[Reason, str]] = {}
    if request.drop_overlap:
        rejected |= {name: ("eval-overlap", f"{kind}: {file}") for name, kind in matches.items()}
    if request.dedup:
        rejected |= {
            name: ("duplicate", f"the same as {line}") for name, line in twins.items() if name not in rejected
        }
    summary: dict[str, Any] = {"prompts": {"all": len(prompts), **({"repeats": len(twins)} if twins else {})}}
    if file is not None:
        exact = sum(kind == "exact" for kind in matches.values())
        summary["overlap"] = {"file": str(file), "exact": exact, "near": len(matches) - exact}
    summary["student"] = about_student
    said = [*_about_repeats(request, prompts, twins), *_about_overlap(request, prompts, matches, file)]
    if loaded is not None and student is None:
        said.append(f"whether rows fit the student is {about_student}")
    return Checked(
        folder,
        loaded.config if loaded else None,
        prompts,
        rejected,
        rewards,
        student,
        said,
        summary,
    )


def _with_rewards(
    request: GenerateRequest, prompts: Sequence[SourcePrompt], folder: Path
) -> tuple[list[SourcePrompt], Mapping[str, RewardInfo]]:
    """The prompts with the names of their rewards, all of rewards.py where a row names none; the rewards."""
    if request.best_of > 1 and request.temperature == 0:
        hint = "leave --temperature out, or answer once"
        raise UsageError("--best-of at --temperature 0 buys the same answer again and again", hint)
    option = "--best-of" if request.best_of > 1 else "--min-reward"
    own = inspect_rewards(folder) if (folder / REWARDS_FILE).is_file() else {}
    if not own and not all(item.prompt.rewards for item in prompts):
        what = "has no function with @reward" if (folder / REWARDS_FILE).is_file() else "does not exist"
        hint = "write rewards as for training; they are looked for beside the tools, or here without tools"
        raise UsageError(f"{option} needs rewards: {folder / REWARDS_FILE} {what}", hint)
    named = [
        item if item.prompt.rewards else SourcePrompt(item.id, replace(item.prompt, rewards=tuple(own)))
        for item in prompts
    ]
    names = {name for item in named for name in item.prompt.rewards}
    known = known_rewards(folder, names)
    if findings := unknown_rewards([item.prompt for item in named], list(known)):
        raise FindingsError(findings)
    require_verifiers(names, known)
    inside = sorted(name for name in names if known[name].sandbox)
    if inside and request.tools is None:
        hint = "name the tools file: --tools tools.py; sandboxed rewards look at what tools left"
        raise UsageError(f"{option}: the reward `{inside[0]}` is sandboxed, and there are no tools", hint)
    return named, {name: known[name] for name in names}


def _repeats(prompts: Sequence[SourcePrompt]) -> dict[str, str]:
    """Id of a prompt that asks what an earlier one asks -> the place of that one. Metadata do not count."""
    first: dict[str, str] = {}
    found: dict[str, str] = {}
    for item in prompts:
        prompt = item.prompt
        shape = {
            "tools": prompt.tools,
            "docker": prompt.docker,
            "docker_env": dict(prompt.docker_env),
            "variables": dict(prompt.variables),
        }
        key, place = content_hash(prompt.messages, shape), _place(prompt)
        if first.setdefault(key, place) != place:
            found[item.id] = first[key]
    return found


def _overlap(
    request: GenerateRequest, prompts: Sequence[SourcePrompt], loaded: LoadedConfig | None
) -> tuple[dict[str, Kind], str | None]:
    """Id of a prompt that is also in the evaluation files -> in which way; the files, None where none is known."""
    files = [request.eval_file] if request.eval_file else []
    if not files and loaded is not None:
        files = [loaded.root / name for name in loaded.config.eval_files]
        files = [file for file in files if file.is_file()]
    if not files:
        if request.drop_overlap:
            hint = "name one: --eval-file val.jsonl, or eval.file in config.yml"
            raise UsageError("--drop-overlap: there is no evaluation file", hint)
        return {}, None
    known = EvalTexts(text for file in files for text in user_texts(file))
    kinds = {item.id: known.match(user_text(item.prompt.messages)) for item in prompts}
    return {name: kind for name, kind in kinds.items() if kind}, ", ".join(map(str, files))


def _about_repeats(
    request: GenerateRequest, prompts: Sequence[SourcePrompt], twins: Mapping[str, str]
) -> list[str]:
    if not twins:
        return []
    what = "they are rejected" if request.dedup else "all are answered; --dedup answers each once"
    return [f"{len(twins)} of {len(prompts)} prompts repeat another one: {what} ({_places(prompts, twins)})"]


def _about_overlap(
    request: GenerateRequest,
    prompts: Sequence[SourcePrompt],
    matches: Mapping[str, Kind],
    file: str | None,
) -> list[str]:
    if not matches:
        return []
    exact = sum(kind == "exact" for kind in matches.values())
    what = "they are rejected" if request.drop_overlap else "--drop-overlap rejects them"
    return [
        f"{len(matches)} of {len(prompts)} prompts are also in {file} "
        f"({exact} exactly, {len(matches) - exact} nearly): {what} ({_places(prompts, matches)})"
    ]


def _places(prompts: Sequence[SourcePrompt], found: Mapping[str, Any]) -> str:
    """The lines of the first ones."""
    places = [str(item.prompt.line) for item in prompts if item.id in found]
    more = ", ..." if len(places) > SHOWN_LINES else ""
    return f"line{'s' if len(places) > 1 else ''} {', '.join(places[:SHOWN_LINES])}{more}"


def _place(prompt: Prompt) -> str:
    return f"{prompt.file}:{prompt.line}"


def make_judge(request: GenerateRequest, checked: Checked, toolbox: ToolBox | None, log: Path) -> Judge:
    """What decides about the conversations. log: what rewards print."""
    rollout = checked.config.rollout if checked.config else RolloutConfig()
    engine = checked.config.sandbox.engine if checked.config else None
    rewards = ProjectRewards(
        checked.folder,
        timeout=rollout.reward_timeout,
        log=log,
        secrets=secrets_of(checked.config) if checked.config else {},
        sandboxes=engine != "none",
    )
    inside = (name for name, info in checked.rewards.items() if info.sandbox and engine != "none")
    return Judge(
        checked.student,
        rewards if checked.rewards else None,
        request.min_reward,
        frozenset(inside),
        lambda prompt: (toolbox.schemas(prompt) or None) if toolbox else None,
        checked.identity(request),
    )


def require_readable(judge: Judge, prompt: Prompt) -> None:
    """RnowError when the student's template cannot write an answer to this prompt, or a call of its tools."""
    student, schemas = judge.student, judge.schemas(prompt)
    if student is None:
        return
    answer: list[Message] = [{"role": "assistant", "content": "ok"}]
    if schemas:
        function = {"name": schemas[0]["function"]["name"], "arguments": "{}"}
        call = {"id": "call_1", "type": "function", "function": function}
        result = {"role": "tool", "tool_call_id": "call_1", "content": "ok"}
        answer = [{"role": "assistant", "content": "", "tool_calls": [call]}, result, *answer]
    try:
        student.tokens(prompt, [*prompt.messages, *answer], schemas)
    except RnowError as error:
        message = (
            f"the student {student.renderer.source} could not be trained on the answers: {error.message}"
        )
        hint = "name another one: --student PATH; --student none generates without looking at the student"
        raise RnowError(message, hint) from error
