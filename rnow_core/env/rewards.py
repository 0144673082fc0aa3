"""A project's rewards as the engine sees them: known before the run, scored in a worker process during it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from rnow_core.env.define import RewardInfo, total_reward
from rnow_core.env.load import REWARDS_FILE
from rnow_core.env.process import (
    LOAD_SECONDS,
    read_first_line,
    require_rewards_file,
    tail,
    too_slow,
    worker_command,
    worker_environment,
)
from rnow_core.env.toolbox import ToolSession
from rnow_core.env.verifiers.mathematics import require_math
from rnow_core.env.verifiers.table import BUILT_IN, FOLDER
from rnow_core.env.worker import RewardWorker
from rnow_core.errors import RnowError, RunFailed
from rnow_core.types import Message, Prompt


def inspect_rewards(project: Path, secrets: Mapping[str, str] | None = None) -> dict[str, RewardInfo]:
    """The rewards of the project's rewards.py by name, as a worker process finds them.

    User code is never imported here. Raises FindingsError: RN231 there is no rewards.py, RN232 it cannot be
    loaded.
    """
    project = project.resolve()
    require_rewards_file(project)
    try:
        found = subprocess.run(
            worker_command(project, secrets or {}),
            input=b"",
            capture_output=True,
            cwd=project,
            env=worker_environment(secrets or {}),
            timeout=LOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise too_slow() from None
    return read_first_line(found.stdout, tail(found.stderr))


def known_rewards(project: Path, names: Iterable[str]) -> dict[str, RewardInfo]:
    """The rewards of rewards.py, and the built-in ones among `names`, those that the rows name; its own come first.

    Without a rewards.py all names must be built in. FindingsError as from `inspect_rewards`.
    """
    wanted = set(names)
    built_in = {name: info for name, info in BUILT_IN.items() if name in wanted}
    if not (project / REWARDS_FILE).is_file() and wanted <= built_in.keys():
        return built_in
    return {**built_in, **inspect_rewards(project)}


class ProjectRewards:
    """Scores finished rollouts with the rewards of their rows.

    The workers, one for rewards.py and one for the built-in rewards, start when they are first needed.
    """

    def __init__(
        self,
        project: Path,
        *,
        timeout: float,
        log: Path,
        secrets: Mapping[str, str] | None = None,
        sandboxes: bool = True,
    ) -> None:
        """`sandboxes` False runs sandboxed rewards like all others."""
        self._sandboxes = sandboxes
        self._timeout = timeout
        self._worker: RewardWorker | None = None
        if (project / REWARDS_FILE).is_file():
            self._worker = RewardWorker(project, log, timeout=timeout, secrets=secrets)
        self._verifiers = RewardWorker(FOLDER, log, timeout=timeout)
        self._known: Mapping[str, RewardInfo] = BUILT_IN

    async def score(
        self, prompt: Prompt, messages: list[Message], session: ToolSession | None
    ) -> dict[str, float]:
        """One number for each reward that the row names, in that order; RewardFailure where one has none.

        Sandboxed rewards run in the session's sandbox, with what its tools left there.
        """
        own = await self._own()
        known = self._known = {**BUILT_IN, **own}
        inside = [name for name in prompt.rewards if name in own and own[name].sandbox and self._sandboxes]
        scores = await self._outside(prompt, messages, own, inside)
        for name in inside:
            if session is None:
                raise RunFailed(f"the sandboxed reward `{name}` has no session to run in")
            limit = known[name].timeout or self._timeout
            scores[name] = await session.reward(name, messages, limit)
        return {name: scores[name] for name in prompt.rewards}

    def total(self, rewards: Mapping[str, float]) -> float:
        """The sum, or 0 where a gate is 0."""
        return total_reward(rewards, self._known)

    async def close(self) -> None:
        """End the worker processes."""
        await self._verifiers.close()
        if self._worker is not None:
            await self._worker.close()

    async def _own(self) -> Mapping[str, RewardInfo]:
        """The rewards of rewards.py, once its worker runs."""
        if self._worker is None:
            return {}
        await self._worker.start()
        return self._worker.rewards

    async def _outside(
        self, prompt: Prompt, messages: list[Message], own: Mapping[str, RewardInfo], inside: list[str]
    ) -> dict[str, float]:
        """The scores of the two workers."""
        scores: dict[str, float] = {}
        here = [name for name in prompt.rewards if name not in inside]
        mine = [name for name in here if name in own or name not in BUILT_IN]
        if mine and self._worker is None:
            raise RnowError(f"the row names the reward `{mine[0]}`, and there is no rewards.py", "add one")
        if mine and self._worker is not None:
            scores |= await self._worker.score(mine, messages, prompt.metadata, prompt.variables)
        built_in = [name for name in here if name not in mine]
        if built_in:
            scores |= await self._verifiers.score(built_in, messages, prompt.metadata, prompt.variables)
        return scores


def require_verifiers(names: Iterable[str], known: Mapping[str, RewardInfo]) -> None:
    """EnvironmentMissing when rows name a built-in verifier whose package is not installed."""
    if "math" in set(names) and known.get("math") is BUILT_IN["math"]:
        require_math()
