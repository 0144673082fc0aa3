"""Plain tools: called in processes of the user's own Python, one call at a time in each."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rnow_core.env.process import worker_environment
from rnow_core.env.runner.bundle import python_command
from rnow_core.env.runner_process import RESULT_BYTES, RunnerProcess
from rnow_core.env.runner_reply import CANNOT_LOAD, TOOLS_FILE
from rnow_core.env.tool_types import ToolContext, ToolInfo, ToolResult
from rnow_core.errors import Finding, FindingsError, RnowError

MAX_WORKERS = 16
MAX_FILES = 200
MAX_SOURCE = 4 * 2**20
"""Bytes of all top-level Python files of a project together."""


def project_files(project: Path) -> dict[str, str]:
    """The project's top-level Python files, name -> source. FindingsError (RN234) when they are too many."""
    paths = [path for path in sorted(project.glob("*.py")) if path.is_file()]
    size = sum(path.stat().st_size for path in paths)
    if len(paths) > MAX_FILES or size > MAX_SOURCE:
        message = f"the project has {len(paths)} Python files of {size} bytes at its top level"
        hint = f"at most {MAX_FILES} files and {MAX_SOURCE} bytes go to the tools: move data and copies away"
        raise FindingsError([Finding(CANNOT_LOAD, "error", message, hint, TOOLS_FILE)])
    try:
        return {path.name: path.read_text(encoding="utf-8") for path in paths}
    except (OSError, UnicodeDecodeError) as error:
        raise FindingsError([Finding(CANNOT_LOAD, "error", str(error), "", TOOLS_FILE)]) from error


def inspect_tools(
    project: Path, secrets: Mapping[str, str] | None = None, python: Sequence[str] = (sys.executable,)
) -> tuple[ToolInfo, ...]:
    """`load_tools` for callers outside an event loop, such as `validate`."""
    return asyncio.run(load_tools(project, secrets, python))


async def load_tools(
    project: Path,
    secrets: Mapping[str, str] | None = None,
    python: Sequence[str] = (sys.executable,),
    files: Mapping[str, str] | None = None,
) -> tuple[ToolInfo, ...]:
    """The tools of the project's tools.py in order of definition, as a process of the user's Python finds them;
    none where there is no tools.py. `files` (name -> source) are loaded instead of those in the folder.

    User code is never imported here. Raises FindingsError: RN234 tools.py cannot be loaded, RN235 a definition
    is wrong.
    """
    project = project.resolve()
    if files is None and not (project / TOOLS_FILE).is_file():
        return ()
    runner = local_runner(project, secrets or {}, python=python)
    try:
        await runner.start()
        return (await runner.load(project_files(project) if files is None else files)).tools
    finally:
        await runner.close()


def local_runner(
    project: Path,
    secrets: Mapping[str, str],
    *,
    python: Sequence[str] = (sys.executable,),
    log: Path | None = None,
    memory: int | None = None,
) -> RunnerProcess:
    """A runner of the user's own Python in the project's folder, with its network and packages, the named
    secrets as variables, and half of the machine's memory unless told otherwise.
    """
    return RunnerProcess(
        python_command(*python),
        environment=worker_environment(secrets),
        cwd=project,
        log=log,
        memory=memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2,
        secrets=list(secrets.values()),
    )


class ToolPool:
    """Runs the plain tools of a project in up to `size` processes, started when they are needed.

    A call that hangs or dies loses its own process, no other. The files are read once: every process runs the
    same code, whatever is edited meanwhile. Processes are shared by all rollouts. `files` (name -> source) are
    loaded instead of those in the folder.
    """

    def __init__(
        self,
        project: Path,
        *,
        size: int = MAX_WORKERS,
        secrets: Mapping[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
        log: Path | None = None,
        memory: int | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        self._project = project.resolve()
        self.files = project_files(self._project) if files is None else dict(files)
        self._secrets = dict(secrets or {})
        self._python = python
        self._log = log
        self._memory = memory
        self._places = asyncio.Semaphore(size)
        self._idle: list[RunnerProcess] = []
        self._all: set[RunnerProcess] = set()
        self._closed = False

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        context: ToolContext,
        *,
        timeout: float,
        limit: int = RESULT_BYTES,
    ) -> ToolResult:
        """Call a tool when a process is free; the time in line does not count. Whatever happens is a result."""
        try:
            async with self._worker() as worker:
                return await worker.call(tool, arguments, context, timeout=timeout, limit=limit)
        except RnowError as error:
            return ToolResult(f"`{tool}` could not run: {error.message}", False, "died")

    async def close(self) -> None:
        """End all processes and what they started."""
        self._closed = True
        await asyncio.gather(*(worker.close() for worker in self._all))
        self._all.clear()
        self._idle.clear()

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[RunnerProcess]:
        async with self._places:
            if self._closed:
                raise RnowError("the tools are closed")
            worker = await self._take()
            try:
                yield worker
            finally:
                if worker.alive:
                    self._idle.append(worker)
                else:
                    self._all.discard(worker)

    async def _take(self) -> RunnerProcess:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            self._all.discard(worker)
        worker = local_runner(
            self._project, self._secrets, python=self._python, log=self._log, memory=self._memory
        )
        self._all.add(worker)
        try:
            await worker.start()
            await worker.load(self.files)
        except BaseException:
            self._all.discard(worker)
            await worker.close()
            raise
        return worker
