"""One prompt -> one conversation of a teacher with the project's tools, journaled turn by turn.

Every reply and every tool result is on the disk before anything is done with it. A run that was killed goes on
behind the last one: no reply in the journal is asked for again, no tool result in it is made again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

from rnow_core.data.messages import parse_arguments
from rnow_core.data.prompt_file import SourcePrompt
from rnow_core.env.toolbox import ToolBox, ToolSession
from rnow_core.errors import RolloutFailed
from rnow_core.models.chat_http import ChatAnswer, NotThisOne
from rnow_core.rollout.agent import CALLS_A_TURN
from rnow_core.rollout.ask import Asker, GaveUp
from rnow_core.rollout.verdict import Reason, as_message, is_loop, reply_problem
from rnow_core.track.journal import Journal
from rnow_core.track.jsonable import dumps
from rnow_core.types import Message, Prompt

TRAIN, REJECTED = "train", "rejected"


@dataclass(frozen=True)
class TeacherParts:
    """What all conversations of a generation share. `toolbox` is None when the teacher gets no tools."""

    asker: Asker
    journal: Journal
    toolbox: ToolBox | None
    max_turns: int
    reasoning: bool = False

    def schemas(self, prompt: Prompt) -> list[dict[str, Any]]:
        """What the teacher is shown of the row's tools."""
        return self.toolbox.schemas(prompt) if self.toolbox else []

    def settings(self, prompt: Prompt) -> str:
        """A hash of all that shapes a reply: half a conversation is not gone on with under other settings."""
        text = dumps([asdict(self.asker.request), self.schemas(prompt)])
        return sha256(text.encode()).hexdigest()[:8]


@dataclass
class Talk:
    """A conversation as it grows. `past`: its journaled records, by what they are of."""

    item: SourcePrompt
    messages: list[Message]
    settings: str
    past: Mapping[tuple[Any, ...], Mapping[str, Any]]
    turns: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    providers: list[str] = field(default_factory=list)
    restored: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a conversation ended. `reason` is None for a row to train on; tokens and cost are of the whole row."""

    id: str
    reason: Reason | None
    detail: str
    turns: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    seconds: float

    @property
    def output(self) -> str:
        """Where its row went."""
        return REJECTED if self.reason else TRAIN


async def generate_one(item: SourcePrompt, parts: TeacherParts) -> Ended:
    """Answer a prompt and write its row; everything that was bought is in the journal.

    Raises:
        Closed: the run is being stopped; the next one goes on here.
        RnowError: nothing more can be generated.
    """
    started = time.perf_counter()
    settings = parts.settings(item.prompt)
    records = [record for record in parts.journal.past(item.id) if record.get("with") == settings]
    past = {_place(record): record for record in records}
    talk = Talk(item, [dict(message) for message in item.prompt.messages], settings, past)
    detail = ""
    try:
        async with _session(item, parts) as session:
            reason = await _converse(talk, parts, session)
    except NotThisOne as error:
        reason, detail = ("refused" if error.reason == "refused" else "too-long"), str(error)
    except (GaveUp, RolloutFailed) as error:
        reason, detail = "error", str(error)
    return await _end(talk, parts, reason, detail, time.perf_counter() - started)


def _place(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return (record["kind"], record["turn"], record.get("call"))


@asynccontextmanager
async def _session(item: SourcePrompt, parts: TeacherParts) -> AsyncIterator[ToolSession | None]:
    if parts.toolbox is None or not parts.toolbox.agentic(item.prompt):
        yield None
        return
    async with parts.toolbox.session(item.prompt, item.id) as session:
        yield session


async def _converse(talk: Talk, parts: TeacherParts, session: ToolSession | None) -> Reason | None:
    """Reply after reply until the conversation is over; why it is no row to train on, or None."""
    schemas = parts.schemas(talk.item.prompt)
    while True:
        answer = await _reply(talk, parts, schemas)
        talk.turns += 1
        message = as_message(answer, talk.calls, reasoning=parts.reasoning)
        talk.messages.append(message)
        last = talk.turns >= parts.max_turns
        if problem := reply_problem(message, answer, tools=session is not None, last=last):
            return problem
        calls = message.get("tool_calls")
        if not calls or session is None:
            return None
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
            await append(**{"with": talk.settings}, answer=asdict(answer))

        sent = [_sent(message) for message in talk.messages]
        answer = await parts.asker.ask(sent, schemas, save)
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
        await _restore(talk, parts, session)
        text, ok = await _made(session, number, call["function"])
        record = {"content": text, "ok": ok}
        await parts.journal.append(
            talk.item.id, "tool", turn=turn, call=number, **{"with": talk.settings}, **record
        )
    return {"role": "tool", "tool_call_id": call["id"], "content": record["content"]}


async def _made(session: ToolSession, number: int, function: Mapping[str, Any]) -> tuple[str, bool]:
    if number >= CALLS_A_TURN:
        return f"not run: at most {CALLS_A_TURN} calls are made in one turn", False
    result = await session.call(function["name"], parse_arguments(function["arguments"]))
    return result.text, result.ok


async def _restore(talk: Talk, parts: TeacherParts, session: ToolSession) -> None:
    """Make the calls of earlier turns again whose effects live in a sandbox or a server's session that is gone."""
    if talk.restored or not talk.past or parts.toolbox is None:
        return
    talk.restored = True
    tools = parts.toolbox.of(talk.item.prompt)
    for message in talk.messages[len(talk.item.prompt.messages) : -1]:
        for call in (message.get("tool_calls") or ())[:CALLS_A_TURN]:
            info = tools.get(call["function"]["name"])
            if info is not None and (info.sandbox or info.server):
                await session.call(info.name, parse_arguments(call["function"]["arguments"]))


async def _end(talk: Talk, parts: TeacherParts, reason: Reason | None, detail: str, seconds: float) -> Ended:
    prompt = talk.item.prompt
    names = list(parts.toolbox.of(prompt)) if parts.toolbox else []
    row: dict[str, Any] = {
        "messages": talk.messages,
        "metadata": {**prompt.metadata, "teacher": parts.asker.request.model, "turns": talk.turns},
        "tools": names,
    }
    if reason:
        row["reason"] = reason
        if detail:
            row["detail"] = detail
    spent = {"turns": talk.turns, "in": talk.tokens_in, "out": talk.tokens_out, "cost": talk.cost}
    ended = Ended(
        talk.item.id, reason, detail, talk.turns, talk.tokens_in, talk.tokens_out, talk.cost, seconds
    )
    await parts.journal.finish(
        talk.item.id, ended.output, row, reason=reason, **spent, providers=talk.providers, seconds=seconds
    )
    return ended
