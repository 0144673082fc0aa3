"""One episode: render the prompt, let the student answer and call tools, keep the exact ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from rnow_core.env.toolbox import ToolSession
from rnow_core.errors import RolloutFailed
from rnow_core.rollout.agent import Agent, respond
from rnow_core.rollout.conversation import Conversation
from rnow_core.rollout.parts import RolloutParts
from rnow_core.types import Completion, Prompt, Rollout, StopReason

Keys = Callable[[int], int]
"""The number of a turn (from 0) -> the 64-bit seed of its sampling."""


async def sample_episode(
    prompt: Prompt, sample: int, keys: Keys, parts: RolloutParts, session: ToolSession | None = None
) -> Rollout:
    """Sample one rollout: one reply, or turns with tool calls between them where the row has tools.

    Args:
        prompt: the row to answer.
        sample: the rollout's number within its group, from 0.
        keys: the seeds of its turns.
        parts: sampler, renderer and settings.
        session: where its tool calls go; without one the row is answered with a single reply.

    Returns:
        The rollout with the sampled ids as they were sampled; its text is only for people and rewards.

    Raises:
        RnowError: the prompt leaves no room in the context window.
        RolloutFailed: the deadline passed before the first reply was complete.
    """
    started = time.perf_counter()
    agent = parts.agent if session is not None and parts.has_turns(prompt) else None
    prompt_text, prompt_ids = parts.render(parts.seen_by_sampler(prompt), agent is not None)
    talk = Conversation(prompt.messages, prompt_text, prompt_ids)
    try:
        async with asyncio.timeout(parts.deadline):
            reason = await _turns(talk, keys, parts, agent, session)
    except TimeoutError:
        reason = "deadline"
    if talk.policy is None:
        raise RolloutFailed(f"no reply was complete within {parts.deadline:g} s (rollout.deadline)")
    return Rollout(
        prompt=prompt,
        sample=sample,
        messages=tuple(talk.messages),
        trajectory=talk.trajectory(),
        prompt_text=prompt_text,
        stop_reason=reason,
        policy=talk.policy,
        seconds=time.perf_counter() - started,
        turns_T=talk.turns(),
        agentic=agent is not None,
        tool_calls=talk.tool_calls,
        tool_errors=talk.tool_errors,
    )


async def _turns(
    talk: Conversation, keys: Keys, parts: RolloutParts, agent: Agent | None, session: ToolSession | None
) -> StopReason:
    """Turn after turn until the episode is over; why it is."""
    while True:
        completion = await _reply(talk, keys(talk.turn), parts)
        talk.add_reply(completion)
        text = reply_text(completion, parts)
        if agent is None or session is None or completion.stop_reason != "stop":
            talk.messages.append({"role": "assistant", "content": text})
            return completion.stop_reason
        over = await respond(
            text, talk, agent, session, parts.renderer, parts.context_window, dict(parts.template_options)
        )
        if over is not None:
            return over


async def _reply(talk: Conversation, key: int, parts: RolloutParts) -> Completion:
    """One sampled turn; it ends with `context` where the window allows less than rollout.max_tokens."""
    room = parts.context_window - len(talk.ids)
    params = replace(parts.params, max_tokens=min(parts.params.max_tokens, room))
    completion = await parts.sampler.sample(talk.ids, params, key)
    if completion.stop_reason == "length" and params.max_tokens < parts.params.max_tokens:
        return replace(completion, stop_reason="context")
    return completion


def reply_text(completion: Completion, parts: RolloutParts) -> str:
    """The reply as rewards see it: without the stop token that ended it."""
    ids = completion.ids[:-1] if completion.stop_reason == "stop" else completion.ids
    return parts.renderer.decode(ids)
