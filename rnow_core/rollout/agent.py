"""What happens between two turns of an agent: its calls are read, made, and answered in the student's own ids."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from rnow_core.data.bridge import turn_ids
from rnow_core.data.renderer import Renderer
from rnow_core.data.tool_calls.formats import Format
from rnow_core.data.tool_calls.records import ParsedReply
from rnow_core.env.toolbox import ToolBox, ToolSession
from rnow_core.rollout.conversation import Conversation
from rnow_core.types import Message, StopReason

CALLS_A_TURN = 32
"""Calls of one turn that are made; the others are answered with this limit."""

GO_ON: Message = {"role": "user", "content": "Continue."}
"""What follows a reply without a tool call where episodes always run to max_turns."""


@dataclass(frozen=True)
class Agent:
    """The tools and limits of episodes with several turns.

    `until_max_turns`: a reply without a call does not end the episode. `max_tool_response`: tokens of one result,
    None for all. `max_malformed`: so many malformed calls may come in an episode before it ends.
    """

    tools: ToolBox
    format: Format
    max_turns: int
    until_max_turns: bool = False
    max_tool_response: int | None = None
    max_malformed: int = 3


async def respond(
    text: str,
    talk: Conversation,
    agent: Agent,
    session: ToolSession,
    renderer: Renderer,
    context_window: int,
    options: dict[str, Any],
) -> StopReason | None:
    """Read a complete reply, make its calls, and append what the student reads next.

    Args:
        text: the reply without its end-of-turn token.
        talk: the conversation, which ends with that reply.
        agent: tools and limits.
        session: where the calls go.
        renderer: the student's.
        context_window: tokens of a conversation.
        options: variables of the chat template.

    Returns:
        Why the episode is over, or None when the student's next turn follows.
    """
    tools = agent.tools.schemas(session.prompt)
    reply = agent.format.parse(text, prompt=talk.tail, tools=tools, first_call=talk.tool_calls)
    talk.messages.append(reply.message())
    talk.tool_calls += len(reply.calls) + len(reply.problems)
    talk.malformed += len(reply.problems)
    talk.tool_errors += len(reply.problems)
    called = bool(reply.calls or reply.problems)
    if not called and not agent.until_max_turns:
        return "stop"
    if talk.turn >= agent.max_turns:
        return "max_turns"
    if talk.malformed > agent.max_malformed:
        return "tool_errors"
    answers = await _answers(reply, talk, agent, session, renderer) if called else [GO_ON]
    glue = turn_ids(renderer, answers, tools=tools, previous_assistant=_as_called(reply), **options)
    if len(talk.ids) + len(glue) >= context_window:
        return "no_room"
    talk.add_between(answers, renderer.decode(glue), glue)
    return None


async def _answers(
    reply: ParsedReply, talk: Conversation, agent: Agent, session: ToolSession, renderer: Renderer
) -> list[Message]:
    """One tool message for each call, in order, then one for each malformed call."""
    made, others = reply.calls[:CALLS_A_TURN], reply.calls[CALLS_A_TURN:]
    results = await asyncio.gather(*(session.call(call.name, call.arguments) for call in made))
    talk.tool_errors += len(others) + sum(not result.ok for result in results)
    # what comes from outside must not end the turn and speak as the assistant
    texts = [
        (call.id, call.name, shortened(renderer.harmless(result.text), agent.max_tool_response, renderer))
        for call, result in zip(made, results, strict=True)
    ]
    refused = f"not run: at most {CALLS_A_TURN} calls are made in one turn"
    texts += [(call.id, call.name, refused) for call in others]
    texts += [(problem.id, "tool", problem.message) for problem in reply.problems]
    return [
        {"role": "tool", "tool_call_id": call_id, "name": name, "content": text}
        for call_id, name, text in texts
    ]


def _as_called(reply: ParsedReply) -> Message:
    """The reply as if its malformed calls had been calls too: each answer needs one before it."""
    message = reply.message()
    malformed = [
        {"id": problem.id, "type": "function", "function": {"name": "tool", "arguments": {}}}
        for problem in reply.problems
    ]
    return {**message, "tool_calls": [*message.get("tool_calls", []), *malformed]} if malformed else message


def shortened(text: str, limit: int | None, renderer: Renderer) -> str:
    """The text cut to `limit` tokens of the student, the cut marked; None leaves it whole."""
    if limit is None or len(text) <= limit:  # a token has at least one character
        return text
    ids = renderer.encode(text)
    if len(ids) <= limit:
        return text
    return f"{renderer.decode(ids[:limit])}\n[cut: {limit} of {len(ids)} tokens]"
