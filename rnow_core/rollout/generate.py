"""One sample of a prompt: a conversation of a teacher with the project's tools, journaled turn by turn.

Every reply and every tool result is on the disk before anything is done with it. A run that was killed goes on
behind the last one: no reply in the journal is asked for again, and the results in it count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

from rnow_core.data.messages import parse_arguments
from rnow_core.data.prompt_file import SourcePrompt, content_hash
from rnow_core.data.seeds import hash64
from rnow_core.env.toolbox import ToolBox, ToolSession
from rnow_core.errors import RolloutFailed
from rnow_core.models.chat_http import ChatAnswer, NotThisOne
from rnow_core.rollout.agent import CALLS_A_TURN
from rnow_core.rollout.ask import Asker, GaveUp
from rnow_core.rollout.judge import Judge, Verdict
from rnow_core.rollout.verdict import Reason, as_message, is_loop, reply_problem
from rnow_core.track.journal import Journal
from rnow_core.track.jsonable import dumps
from rnow_core.types import Message, Prompt

TRAIN, REJECTED = "train", "rejected"


@dataclass(frozen=True)
class TeacherParts:
    """What all conversations of a generation share. `toolbox` is None when the teacher gets no tools.

    seen: `content_hash` of the messages of every row in train; None where equal rows are wanted.
    """

    asker: Asker
    journal: Journal
    toolbox: ToolBox | None
    max_turns: int
    reasoning: bool = False
    best_of: int = 1
    judge: Judge = field(default_factory=Judge)
    seen: set[str] | None = None

    def schemas(self, prompt: Prompt) -> list[dict[str, Any]]:
        """What the teacher is shown of the row's tools."""
        return self.toolbox.schemas(prompt) if self.toolbox else []

    def tool_names(self, prompt: Prompt) -> list[str]:
        """The names of the row's tools."""
        return list(self.toolbox.of(prompt)) if self.toolbox else []

    def settings(self, prompt: Prompt) -> str:
        """A hash of all that shapes a reply: half a conversation is not gone on with under other settings."""
        text = dumps([asdict(self.asker.request), self.schemas(prompt)])
        return sha256(text.encode()).hexdigest()[:8]

    def judged(self, prompt: Prompt) -> str:
        """Changes with all that a verdict about the row's conversations follows from."""
        return f"{self.judge.identity}:{','.join(prompt.rewards)}"

    def is_new(self, messages: Sequence[Message]) -> bool:
        """Whether no row has these messages; from now on one has them. True where equal rows are wanted."""
        if self.seen is None:
            return True
        key = content_hash(messages, {})
        new = key not in self.seen
        self.seen.add(key)
        return new


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation that is over. `reason` is None where it can be trained on; turns, tokens and cost are its own."""

    number: int
    messages: list[Message]
    reason: Reason | None = None
    detail: str = ""
    reward: float | None = None
    turns: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    providers: list[str] = field(default_factory=list)


@dataclass
class Talk:
    """A conversation as it grows. `mark` is in all its records; `past`: those of before, by what they are of."""

    item: SourcePrompt
    number: int
    messages: list[Message]
    mark: Mapping[str, Any]
    past: Mapping[tuple[Any, ...], Mapping[str, Any]]
    turns: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    providers: list[str] = field(default_factory=list)
    restored: bool = False

    def ended(self, verdict: Verdict) -> Sample:
        """The sample that it has become."""
        return Sample(
            self.number,
            self.messages,
            verdict.reason,
            verdict.detail,
            verdict.reward,
            self.turns,
            self.tokens_in,
            self.tokens_out,
            self.cost,
            self.providers,
        )


async def sample_one(item: SourcePrompt, number: int, parts: TeacherParts) -> Sample:
    """Have the conversation number `number` (from 0) about a prompt, or go on with it.

    Raises:
        Closed: the run is being stopped; the next one goes on here.
        RnowError: nothing more can be generated.
    """
    settings, judged = parts.settings(item.prompt), parts.judged(item.prompt)
    records = [
        record
        for record in parts.journal.past(item.id)
        if record.get("with") == settings and record.get("sample", 0) == number
    ]
    past = {_place(record): record for record in records}
    before = past.get(_ENDED)
    if before is not None and before["judged"] == judged:
        return Sample(**before["ended"])
    mark = {"with": settings, **({"sample": number} if number else {})}
    talk = Talk(item, number, [dict(message) for message in item.prompt.messages], mark, past)
    sample = talk.ended(await _held(talk, parts))
    if parts.best_of > 1:
        await parts.journal.append(item.id, "ended", **mark, judged=judged, ended=asdict(sample))
    return sample


async def _held(talk: Talk, parts: TeacherParts) -> Verdict:
    """The conversation to its end; what there is to say about it."""
    prompt = talk.item.prompt
    try:
        async with _session(talk, parts) as session:
            reason = await _converse(talk, parts, session)
            if reason is not None:
                return Verdict(reason)
            if session is not None and parts.judge.needs_sandbox(prompt):
                await _restore(talk, parts, session)
            return await parts.judge.verdict(prompt, talk.messages, session)
    except NotThisOne as error:
        return Verdict("refused" if error.reason == "refused" else "too-long", str(error))
    except (GaveUp, RolloutFailed) as error:
        return Verdict("error", str(error))


_ENDED = ("ended", None, None)


def _place(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return (record["kind"], record.get("turn"), record.get("call"))


@asynccontextmanager
async def _session(talk: Talk, parts: TeacherParts) -> AsyncIterator[ToolSession | None]:
    prompt, box = talk.item.prompt, parts.toolbox
    if box is None or not (box.agentic(prompt) or parts.judge.needs_sandbox(prompt)):
        yield None
        return
    async with box.session(prompt, f"{talk.item.id}.{talk.number}") as session:
        yield session


async def _converse(talk: Talk, parts: TeacherParts, session: ToolSession | None) -> Reason | None:
    """Reply after reply until the conversation is over; why it is no row to train on, or None."""
    schemas = parts.schemas(talk.item.prompt)
    while True:
        answer = await _reply(talk, parts, schemas)
        turn, talk.turns = talk.turns, talk.turns + 1
        message = as_message(answer, talk.calls, reasoning=parts.reasoning)
        talk.messages.append(message)
        last = talk.turns >= parts.max_turns
        if problem := reply_problem(message, answer, tools=bool(schemas), last=last):
            return problem
        calls = message.get("tool_calls")
        if not calls or session is None:
            return None
        if any(("tool", turn, number) not in talk.past for number in range(len(calls))):
            await _restore(talk, parts, session)
        talk.messages += await asyncio.gather(
            *(_result(talk, parts, session, number, call) for number, call in enumerate(calls))
        )
        talk.calls += len(calls)
        if is_loop(talk.messages):
            return "tool-loop"


async def _reply(talk: Talk, parts: TeacherParts, schemas: Sequence[Mapping[str, Any]]) -> ChatAnswer:
    """The journaled reply of this turn, or a new one, journaled."""
    record = talk.past.get(("answer", talk.turns, None))
    if record is not None:
        answer = ChatAnswer(**record["answer"])
    else:
        append = partial(parts.journal.append, talk.item.id, "answer", turn=talk.turns)

        async def save(answer: ChatAnswer) -> None:
            await append(**talk.mark, answer=asdict(answer))

        sent = [_sent(message) for message in talk.messages]
        key = hash64("generate", talk.item.id, talk.number, talk.turns)
        answer = await parts.asker.ask(sent, schemas, save, key)
        parts.asker.budget.require_cost(answer.cost)
    talk.tokens_in += answer.tokens_in
    talk.tokens_out += answer.tokens_out
    if answer.cost is not None:
        talk.cost = (talk.cost or 0.0) + answer.cost
    if answer.provider and answer.provider not in talk.providers:
        talk.providers.append(answer.provider)
    return answer


def _sent(message: Message) -> Message:
    """The message as servers take it: kept thoughts are for the student."""
    return {key: value for key, value in message.items() if key != "reasoning_content"}


async def _result(
    talk: Talk, parts: TeacherParts, session: ToolSession, number: int, call: Mapping[str, Any]
) -> Message:
    """The journaled result of a call, or that of making it, journaled."""
    turn = talk.turns - 1
    record = talk.past.get(("tool", turn, number))
    if record is None:
        text, ok = await _made(session, number, call["function"])
        record = {"content": text, "ok": ok}
        await parts.journal.append(talk.item.id, "tool", turn=turn, call=number, **talk.mark, **record)
    return {"role": "tool", "tool_call_id": call["id"], "content": record["content"]}


async def _made(session: ToolSession, number: int, function: Mapping[str, Any]) -> tuple[str, bool]:
    if number >= CALLS_A_TURN:
        return f"not run: at most {CALLS_A_TURN} calls are made in one turn", False
    result = await session.call(function["name"], parse_arguments(function["arguments"]))
    return result.text, result.ok


async def _restore(talk: Talk, parts: TeacherParts, session: ToolSession) -> None:
    """Make the journaled calls again whose effects live in a sandbox or a server's session that is gone.

    They are made one after the other, before any call that was not made yet; their journaled results count.
    """
    if talk.restored or not talk.past or parts.toolbox is None:
        return
    talk.restored = True
    tools = parts.toolbox.of(talk.item.prompt)
    replies = [
        message for message in talk.messages[len(talk.item.prompt.messages) :] if message["role"] != "tool"
    ]
    for turn, message in enumerate(replies):
        for number, call in enumerate((message.get("tool_calls") or ())[:CALLS_A_TURN]):
            info = tools.get(call["function"]["name"])
            if info and (info.sandbox or info.server) and ("tool", turn, number) in talk.past:
                await session.call(info.name, parse_arguments(call["function"]["arguments"]))
