"""`rnow generate`: a teacher answers prompts, and every prompt ends exactly once in train or rejected."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.build.teacher_tools import TeacherTools, make_teacher_tools
from rnow_core.data.prompt_file import SourcePrompt, answered, load_source
from rnow_core.errors import Interrupted, RnowError, UsageError
from rnow_core.jobs.generate_progress import Progress, forecast
from rnow_core.models.adaptive_limit import AdaptiveLimit, Closed
from rnow_core.models.chat_http import OPENROUTER, ChatClient, ChatRequest
from rnow_core.rollout.ask import Asker, Budget
from rnow_core.rollout.generate import REJECTED, TRAIN, TeacherParts, generate_one
from rnow_core.stop import StopSignal
from rnow_core.track.events import Emit, Event
from rnow_core.track.journal import Journal

GRACE_S = 60.0
"""How long a stop waits for the requests and calls that are under way."""

TICK_S = 0.1


@dataclass(frozen=True)
class GenerateRequest:
    """What the command line asked for; `rnow generate --help` says what each option means.

    tools: None for a teacher without tools. price: dollars of a million tokens, (read, written).
    """

    source: Path
    output: Path = Path("train.jsonl")
    tools: Path | None = Path("tools.py")
    model: str = "openai/gpt-4o-mini"
    system: str | None = None
    num: int | None = None
    concurrency: int = 20
    max_tokens: int = 2048
    max_turns: int = 10
    temperature: float = 0.7
    base_url: str = OPENROUTER
    key_env: str | None = "OPENROUTER_API_KEY"
    provider: str | None = None
    price: tuple[float, float] | None = None
    max_cost: float | None = None
    max_minutes: float | None = None
    dry_run: int | None = None
    reasoning: bool = False
    timeout: float = 300.0
    breaker_minutes: float = 10.0

    @property
    def rejected(self) -> Path:
        """`rejected.jsonl`, or `NAME.rejected.jsonl` beside an output that is not train.jsonl."""
        name = "rejected" if self.output.stem == "train" else f"{self.output.stem}.rejected"
        return self.output.with_name(f"{name}.jsonl")


def generate(request: GenerateRequest, emit: Emit, stop: StopSignal) -> dict[str, Any]:
    """Answer all prompts that are not answered yet; the summary.

    Raises:
        Interrupted: `stop` was requested; what was under way is saved.
        WouldOverwrite: another process works on the output.
        RnowError: the prompts, the tools, the account, the server or the budget; the same command goes on.
    """
    prompts = load_source(request.source, system=request.system, limit=request.num)
    if request.source.resolve() == request.output.resolve():
        raise UsageError("the output is the file of prompts", "name another one: -o train.jsonl")
    with suppress(OSError):
        request.output.parent.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_generate(request, prompts, emit, stop))


async def _generate(
    request: GenerateRequest, prompts: Sequence[SourcePrompt], emit: Emit, stop: StopSignal
) -> dict[str, Any]:
    client = ChatClient(request.base_url, request.key_env, timeout_s=request.timeout)
    tools: TeacherTools | None = None
    try:
        if request.tools is not None:
            log = request.output.with_name(f"{request.output.name}.tools.log")
            tools = await make_teacher_tools(request.tools, f"generate-{request.output.stem}", log)
            for item in prompts:
                tools.toolbox.of(item.prompt)
        async with Journal(
            request.output.resolve(), {TRAIN: request.output.resolve(), REJECTED: request.rejected.resolve()}
        ) as journal:
            return await _Job(request, prompts, journal, client, tools, emit).run(stop)
    finally:
        await client.close()
        if tools is not None:
            await tools.close()


class _Job:
    """One session of work on an output file."""

    def __init__(
        self,
        request: GenerateRequest,
        prompts: Sequence[SourcePrompt],
        journal: Journal,
        client: ChatClient,
        tools: TeacherTools | None,
        emit: Emit,
    ) -> None:
        self.request, self.emit = request, emit
        ended = set(journal.done)
        if journal.fresh:
            ended |= answered(list(journal.outputs.values()), prompts)
        self.todo = [item for item in prompts if item.id not in ended]
        budget = Budget(request.max_cost, request.price)
        _count_past(journal, budget)
        self.gate = AdaptiveLimit(request.concurrency, breaker_s=request.breaker_minutes * 60)
        chat = ChatRequest(request.model, request.max_tokens, request.temperature, request.provider)
        self.asker = Asker(client, chat, self.gate, budget)
        self.parts = TeacherParts(
            self.asker, journal, tools.toolbox if tools else None, request.max_turns, request.reasoning
        )
        known = {item.id for item in prompts}
        before = Counter(head["output"] for work, head in journal.done.items() if work in known)
        by_file = len(prompts) - len(self.todo) - sum(before.values())
        self.progress = Progress(
            total=len(prompts), done=before[TRAIN] + by_file, rejected=before[REJECTED], asker=self.asker
        )
        self.error: RnowError | Exception | None = None
        self.finished = False

    async def run(self, stop: StopSignal) -> dict[str, Any]:
        """Work until all is done, or something ends it."""
        todo = self.todo[: self.request.dry_run] if self.request.dry_run else self.todo
        if len(self.todo) < self.progress.total:
            said = f"{self.progress.total - len(self.todo)} of {self.progress.total} prompts are done already"
            self.emit(Event("progress", {"message": said}))
        source = iter(todo)
        # a prompt that rests between two tries, or waits for its tool, leaves its slot to another
        workers = [asyncio.create_task(self._work(source)) for _ in range(2 * self.request.concurrency)]
        watch = asyncio.create_task(self._watch(stop, workers))
        try:
            await asyncio.wait(workers)
        finally:
            self.finished = True
            await watch
        self.emit(self.progress.event(self.gate))
        if self.error is not None:
            raise self.error
        summary = self.progress.summary(self.request.output, self.request.rejected)
        if self.request.dry_run:
            summary["forecast"] = forecast(self.progress, self.request.concurrency)
        return summary

    async def _work(self, source: Any) -> None:
        for item in source:
            try:
                self.progress.add(await generate_one(item, self.parts))
            except Closed:
                return
            except Exception as error:
                await self._end(error)
                return
            if self.error is not None:
                return

    async def _end(self, error: Exception) -> None:
        """The first reason counts; what is under way is finished and saved."""
        self.error = self.error or error
        await self.gate.close()

    async def _watch(self, stop: StopSignal, workers: Sequence[asyncio.Task[None]]) -> None:
        """Look for a stop and for the end of the time; tell how far it is."""
        started = told = time.monotonic()
        ending: float | None = None
        limit = self.request.max_minutes
        while not self.finished:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            if self.error is None and stop.requested:
                message = (
                    f"stopped by the user: {self.progress.ended} of {self.progress.total} prompts are done"
                )
                await self._end(Interrupted(message, "the same command goes on from here"))
            elif self.error is None and limit is not None and now - started >= limit * 60:
                message = f"stopped at --max-minutes {limit:g}: {self.progress.ended} prompts are done"
                await self._end(RnowError(message, "the same command goes on from here"))
            if self.error is not None:
                ending = ending or now
                if now - ending > GRACE_S:
                    for worker in workers:
                        worker.cancel()
            if now - told >= 1.0:
                told = now
                self.emit(self.progress.event(self.gate))


def _count_past(journal: Journal, budget: Budget) -> None:
    """What earlier sessions spent. A cost that was not known then is not asked about again."""
    for head in journal.done.values():
        budget.add(head["in"], head["out"], head["cost"] or 0.0, head["turns"])
    for lines in journal.unfinished.values():
        for record in map(json.loads, lines):
            if record["kind"] == "answer":
                answer = record["answer"]
                budget.add(answer["tokens_in"], answer["tokens_out"], answer["cost"] or 0.0)
