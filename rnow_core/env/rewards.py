"""A project's rewards as the engine sees them: known before the run, scored in a worker process during it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from rnow_core.env.define import RewardInfo, total_reward
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
from rnow_core.env.worker import RewardWorker
from rnow_core.errors import RunFailed
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


class ProjectRewards:
    """Scores finished rollouts with the rewards of their rows. The worker starts with the first one."""

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
        self._worker = RewardWorker(project, log, timeout=timeout, secrets=secrets)

    async def score(
        self, prompt: Prompt, messages: list[Message], session: ToolSession | None
    ) -> dict[str, float]:
        """One number for each reward that the row names, in that order; RewardFailure where one has none.

        Sandboxed rewards run in the session's sandbox, with what its tools left there.
        """
        await self._worker.start()
        known = self._worker.rewards
        inside = [
            name for name in prompt.rewards if name in known and known[name].sandbox and self._sandboxes
        ]
        outside = [name for name in prompt.rewards if name not in inside]
        scores = await self._worker.score(outside, messages, prompt.metadata, prompt.variables)
        for name in inside:
            if session is None:
                raise RunFailed(f"the sandboxed reward `{name}` has no session to run in")
            limit = known[name].timeout or self._timeout
            scores[name] = await session.reward(name, messages, limit)
        return {name: scores[name] for name in prompt.rewards}

    def total(self, rewards: Mapping[str, float]) -> float:
        """The sum, or 0 where a gate is 0."""
        return total_reward(rewards, self._worker.rewards)

    async def close(self) -> None:
        """End the worker process."""
        await self._worker.close()
