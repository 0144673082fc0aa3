"""One running container: started, waited for, asked, removed."""

from __future__ import annotations

import asyncio
import re
import secrets
from pathlib import Path
from typing import Any

from rnow_core.env.runner.bundle import python_command
from rnow_core.env.sandbox.engine import Engine, EngineFailed
from rnow_core.env.sandbox.health import READY_SECONDS, wait_ready
from rnow_core.env.sandbox.inside import end_processes
from rnow_core.env.sandbox.network import close_private_addresses
from rnow_core.env.sandbox.recipe import Recipe
from rnow_core.errors import RnowError

RUNNER_MARK = "RNOW_RUNNER"
END_SECONDS = 15.0
_END_PROCESSES = Path(end_processes.__file__).read_text()


class Container:
    """A container of ours. `gone`: it was removed, by us or because it could not be controlled any more."""

    def __init__(self, engine: Engine, recipe: Recipe) -> None:
        self._engine = engine
        self._recipe = recipe
        self.name = f"rnow-{_plain(recipe.run)}-{secrets.token_hex(4)}"
        self.gone = False

    async def start(self, *, block_private: bool = True) -> None:
        """Start it and wait until it is ready. Whatever goes wrong, nothing of it is left.

        Raises EngineFailed with the end of its log; EnvironmentMissing when private addresses stay reachable.
        """
        engine, recipe = self._engine, self._recipe
        try:
            await engine.require(*recipe.words(engine, self.name), values=recipe.values)
            async with asyncio.TaskGroup() as tasks:
                if recipe.network and block_private:
                    tasks.create_task(close_private_addresses(engine, recipe, self.name))
                if recipe.image.health is not None:
                    tasks.create_task(self._wait_ready())
        except BaseException as error:
            first = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            problem = await asyncio.shield(self._failed(first))
            raise problem from None

    async def _wait_ready(self) -> None:
        check = self._recipe.image.health
        assert check is not None
        command = ("exec", self.name, *check.command)
        await wait_ready(lambda: self._engine.call(*command, seconds=check.seconds), READY_SECONDS)

    async def _failed(self, error: BaseException) -> BaseException:
        """Remove what there is; the error to raise, with the log where the image's own program is to blame."""
        log = await self.log_tail() if isinstance(error, EngineFailed) else ""
        await self.remove()
        if not isinstance(error, EngineFailed):
            return error
        said = f"; the end of its log:\n{log}" if log else ""
        return EngineFailed(
            f"the container of {self._recipe.image.name} did not start: {error.message}{said}"
        )

    def runner_command(self, mark: str) -> list[str]:
        """The command line that starts a runner inside; `mark` is what `end_runner` finds it by."""
        inside = python_command(self._recipe.image.python)
        return self._engine.command(
            "exec", "--interactive", "--env", f"{RUNNER_MARK}={mark}", self.name, *inside
        )

    async def end_runner(self, mark: str) -> None:
        """End a runner and all that it started; if that cannot be done, the whole container."""
        if self.gone:
            return
        words = (self._recipe.image.python, "-I", "-S", "-c", _END_PROCESSES, f"{RUNNER_MARK}={mark}")
        try:
            await self._engine.require("exec", self.name, *words, seconds=END_SECONDS)
        except RnowError:
            await self.remove()

    async def log_tail(self) -> str:
        """The last lines that the image's own program printed; empty when there is no log."""
        try:
            output = await self._engine.call("logs", "--tail", "15", self.name)
        except RnowError:
            return ""
        return "" if output.code else (output.out + output.err)[-4000:].strip()

    async def state(self) -> dict[str, Any]:
        """What the engine says of it; empty when it does not exist."""
        found = await self._engine.inspect(self.name)
        return dict(found[0].get("State") or {}) if found else {}

    async def remove(self) -> None:
        """Kill and remove it."""
        self.gone = True
        await self._engine.remove(self.name, f"{self.name}-guard")


def _plain(text: str) -> str:
    """What a container's name may hold of a run's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:30].strip("-").lower() or "run"
