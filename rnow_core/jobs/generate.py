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
from rnow_core.data.prompt_file import SourcePrompt, answered, load_source, message_keys
from rnow_core.errors import Interrupted, RnowError, UsageError
from rnow_core.jobs.generate_checks import Checked, check_prompts, make_judge, require_readable
from rnow_core.jobs.generate_progress import Progress, forecast
from rnow_core.jobs.generate_teacher import Endpoint, Engine, LocalModel, make_teacher, start_teacher
from rnow_core.models.adaptive_limit import AdaptiveLimit, Closed
from rnow_core.models.chat_http import OPENROUTER, ChatRequest
from rnow_core.rollout.ask import Asker, Budget, ChatTeacher
from rnow_core.rollout.best_of import generate_one, reject
from rnow_core.rollout.generate import REJECTED, TRAIN, TeacherParts
from rnow_core.rollout.judge import Judge
from rnow_core.stop import StopSignal
from rnow_core.track.diskerrors import DiskFailed
from rnow_core.track.events import Emit, Event
from rnow_core.track.journal import Journal

GRACE_S = 60.0
"""How long a stop waits for the requests and calls that are under way."""

TICK_S = 0.1


@dataclass(frozen=True)
class GenerateRequest:
    """What the command line asked for; `rnow generate --help` says what each option means.

    tools: None for a teacher without tools. price: dollars of a million tokens, (read, written). student: a folder or
    hub id, `none` = rows are not checked against one, None = the config's.
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
    best_of: int = 1
    min_reward: float | None = None
    dedup: bool = False
    eval_file: Path | None = None
    drop_overlap: bool = False
    student: str | None = None
    local: bool = False
    engine: Engine | None = None

    @property
    def teacher(self) -> Endpoint | LocalModel:
        """Who answers. `local`: `model` is run here, by `engine`, and `base_url` is not asked."""
        if not self.local:
            return Endpoint(self.base_url, self.key_env, self.timeout)
        log = self.output.with_name(f"{self.output.name}.teacher.log")
        tools = self.tools is not None
        return LocalModel(self.model, self.engine, tools, self.concurrency, self.max_tokens, log)

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
    checked = check_prompts(request, prompts)
    with suppress(OSError):
        request.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        return asyncio.run(_generate(request, checked, emit, stop))
    except DiskFailed as error:
        raise error.for_command("the same command") from error


async def _generate(
    request: GenerateRequest, checked: Checked, emit: Emit, stop: StopSignal
) -> dict[str, Any]:
    teacher = make_teacher(request.teacher)
    tools: TeacherTools | None = None
    judge = Judge()
    try:
        log = request.output.with_name(f"{request.output.name}.tools.log")
        if request.tools is not None:
            tools = await make_teacher_tools(request.tools, f"generate-{request.output.stem}", log)
            for item in checked.prompts:
                tools.toolbox.of(item.prompt)
        judge = make_judge(request, checked, tools.toolbox if tools else None, log)
        require_readable(judge, checked.prompts[0].prompt)
        async with Journal(
            request.output.resolve(), {TRAIN: request.output.resolve(), REJECTED: request.rejected.resolve()}
        ) as journal:
            return await _Job(request, checked, journal, teacher, tools, judge, emit).run(stop)
    finally:
        await teacher.close()
        await judge.close()
        if tools is not None:
            await tools.close()


class _Job:
    """One session of work on an output file."""

    def __init__(
        self,
        request: GenerateRequest,
        checked: Checked,
        journal: Journal,
        teacher: ChatTeacher,
        tools: TeacherTools | None,
        judge: Judge,
        emit: Emit,
    ) -> None:
        self.request, self.checked, self.emit = request, checked, emit
        prompts = checked.prompts
        ended = set(journal.done)
        if journal.fresh:
            ended |= answered(list(journal.outputs.values()), prompts)
        self.todo = [item for item in prompts if item.id not in ended]
        budget = Budget(request.max_cost, request.price)
        _count_past(journal, budget)
        self.gate = AdaptiveLimit(request.concurrency, breaker_s=request.breaker_minutes * 60)
        chat = ChatRequest(request.model, request.max_tokens, request.temperature, request.provider)
        self.asker = Asker(teacher, chat, self.gate, budget)
        self.parts = TeacherParts(
            self.asker,
            journal,
            tools.toolbox if tools else None,
            request.max_turns,
            request.reasoning,
            request.best_of,
            judge,
            message_keys(request.output) if request.dedup else None,
        )
        self.progress = _progress_so_far(checked, journal, len(self.todo), self.asker)
        self.error: Exception | None = None
        self.stopped: tuple[type[RnowError], str] | None = None
        self.finished = False

    async def run(self, stop: StopSignal) -> dict[str, Any]:
        """Work until all is done, or something ends it."""
        done = self.progress.total - len(self.todo)
        before = [f"{done} of {self.progress.total} prompts are done already"] if done else []
        for said in [*before, *self.checked.said]:
            self.emit(Event("progress", {"message": said}))
        todo = await self._reject_some()
        source = iter(todo[: self.request.dry_run] if self.request.dry_run else todo)
        if todo:
            await start_teacher(self.asker.client, self.emit, stop)
        # a prompt that rests between two tries, or waits for its tool, leaves its slot to another
        others = self.request.concurrency // self.request.best_of
        workers = [asyncio.create_task(self._work(source)) for _ in range(self.request.concurrency + others)]
        watch = asyncio.create_task(self._watch(stop, workers))
        try:
            await asyncio.wait(workers)
        finally:
            self.finished = True
            await watch
        self.emit(self.progress.event(self.gate))
        if self.error is not None:
            raise self.error
        if self.stopped is not None:
            kind, why = self.stopped
            far = f"{self.progress.ended} of {self.progress.total} prompts are done"
            raise kind(f"{why}: {far}", "the same command goes on from here")
        summary = self.progress.summary(self.request.output, self.request.rejected)
        if self.request.dry_run:
            summary["forecast"] = forecast(self.progress, self.request.concurrency)
        return summary

    async def _reject_some(self) -> list[SourcePrompt]:
        """End the prompts that are not asked about; the others."""
        rejected = self.checked.rejected
        items = [item for item in self.todo if item.id in rejected]
        for ended in await asyncio.gather(*(reject(item, *rejected[item.id], self.parts) for item in items)):
            self.progress.add(ended)
        return [item for item in self.todo if item.id not in rejected]

    async def _work(self, source: Any) -> None:
        for item in source:
            try:
                self.progress.add(await generate_one(item, self.parts))
            except Closed:
                return
            except Exception as error:
                await self._end(error)
                return
            if self.ending:
                return

    @property
    def ending(self) -> bool:
        """Whether no further prompt is begun."""
        return self.error is not None or self.stopped is not None

    async def _end(self, error: Exception) -> None:
        """The first reason counts; what is under way is finished and saved."""
        self.error = self.error or error
        await self.gate.close()

    async def _watch(self, stop: StopSignal, workers: Sequence[asyncio.Task[None]]) -> None:
        """Look for a stop and for the end of the time; tell how far it is."""
        started = told = time.monotonic()
        ended: float | None = None
        limit = self.request.max_minutes
        while not self.finished:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            if not self.ending and stop.requested:
                self.stopped = (Interrupted, "stopped by the user")
            elif not self.ending and limit is not None and now - started >= limit * 60:
                self.stopped = (RnowError, f"stopped at --max-minutes {limit:g}")
            if self.ending and ended is None:
                ended = now
                await self.gate.close()
            if ended is not None and now - ended > GRACE_S:
                for worker in workers:
                    worker.cancel()
            if now - told >= 1.0:
                told = now
                self.emit(self.progress.event(self.gate))


def _progress_so_far(checked: Checked, journal: Journal, todo: int, asker: Asker) -> Progress:
    """What earlier sessions did with these prompts."""
    known = {item.id for item in checked.prompts}
    heads = {work: head for work, head in journal.done.items() if work.partition("#")[0] in known}
    before = Counter(head["output"] for work, head in heads.items() if work in known)
    return Progress(
        total=len(checked.prompts),
        done=len(checked.prompts) - todo - before[REJECTED],
        rejected=before[REJECTED],
        asker=asker,
        reasons=Counter(head["reason"] for head in heads.values() if head["reason"]),
        about=checked.summary,
    )


def _count_past(journal: Journal, budget: Budget) -> None:
    """What earlier sessions spent. A cost that was not known then is not asked about again."""
    for head in journal.done.values():
        budget.add(head["in"], head["out"], head["cost"] or 0.0, head["turns"])
    for lines in journal.unfinished.values():
        for record in map(json.loads, lines):
            if record["kind"] == "answer":
                answer = record["answer"]
                budget.add(answer["tokens_in"], answer["tokens_out"], answer["cost"] or 0.0)
