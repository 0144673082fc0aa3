"""One episode: render the prompt, let the student answer, keep the exact ids."""

from __future__ import annotations

import time
from dataclasses import replace

from rnow_core.rollout.parts import RolloutParts
from rnow_core.types import Completion, Prompt, Rollout, Trajectory


async def sample_episode(prompt: Prompt, sample: int, key: int, parts: RolloutParts) -> Rollout:
    """Sample one single-turn rollout.

    Args:
        prompt: the row to answer.
        sample: the rollout's number within its group, from 0.
        key: 64-bit seed of this rollout.
        parts: sampler, renderer and settings.

    Returns:
        The rollout with the sampled ids as they were sampled; its text is only for people and rewards.

    Raises:
        RnowError: the prompt leaves no room in the context window.
    """
    started = time.perf_counter()
    prompt_text, prompt_ids = parts.renderer.render_row(prompt, **parts.template_options)
    room = parts.context_window - len(prompt_ids)
    params = replace(parts.params, max_tokens=min(parts.params.max_tokens, room))
    completion = await parts.sampler.sample(prompt_ids, params, key)
    if completion.stop_reason == "length" and params.max_tokens < parts.params.max_tokens:
        completion = replace(completion, stop_reason="context")
    return Rollout(
        prompt=prompt,
        sample=sample,
        messages=(*prompt.messages, {"role": "assistant", "content": reply_text(completion, parts)}),
        trajectory=trajectory_of(prompt_ids, completion),
        prompt_text=prompt_text,
        stop_reason=completion.stop_reason,
        policy=completion.policy,
        seconds=time.perf_counter() - started,
        turns_T=(0,) * len(prompt_ids) + (1,) * len(completion.ids),
    )


def trajectory_of(prompt_ids: tuple[int, ...], completion: Completion) -> Trajectory:
    """Prompt and completion as one list of ids; every completion id was sampled and is trained."""
    n_prompt = len(prompt_ids)
    return Trajectory(
        ids_T=prompt_ids + completion.ids,
        mask_T=(False,) * n_prompt + (True,) * len(completion.ids),
        mu_T=(0.0,) * n_prompt + completion.logprobs,
        prompt_length=n_prompt,
    )


def reply_text(completion: Completion, parts: RolloutParts) -> str:
    """The reply as rewards see it: without the stop token that ended it."""
    ids = completion.ids[:-1] if completion.stop_reason == "stop" else completion.ids
    return parts.renderer.decode(ids)
