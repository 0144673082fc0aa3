"""A few short replies of the version in use: what the sampler says of them is compared with other scorers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rnow_core.data.seeds import sample_key
from rnow_core.rollout.episode import sample_episode
from rnow_core.rollout.parts import RolloutParts
from rnow_core.rollout.score import response_request
from rnow_core.types import Prompt, Rollout, ScoreRequest

PROBE_PROMPTS = 4
PROBE_TOKENS = 32
PROBE_OFFSET = 2_000_000
"""Probes sample with seeds that no step uses."""


async def probe(
    prompts: Sequence[Prompt], step: int, parts: RolloutParts
) -> tuple[list[ScoreRequest], list[float]]:
    """Sample short replies to the first prompts.

    Returns:
        Requests that score exactly the sampled ids, and the sampler's logprobs of them, flat in the same order.
    """
    rollouts = await probe_rollouts(prompts, step, parts)
    return [response_request(rollout) for rollout in rollouts], sampled_logprobs(rollouts)


async def probe_rollouts(prompts: Sequence[Prompt], step: int, parts: RolloutParts) -> list[Rollout]:
    """Short replies to the first prompts."""
    short = replace(
        parts, params=replace(parts.params, max_tokens=min(PROBE_TOKENS, parts.params.max_tokens))
    )
    chosen = prompts[:PROBE_PROMPTS]
    return await asyncio.gather(
        *(
            sample_episode(
                prompt, 0, partial(sample_key, parts.seed, step, prompt.index, PROBE_OFFSET), short
            )
            for prompt in chosen
        )
    )


def sampled_logprobs(rollouts: Sequence[Rollout]) -> list[float]:
    """The sampler's logprobs of the responses, flat."""
    return [mu for rollout in rollouts for mu in rollout.trajectory.mu_T[rollout.trajectory.prompt_length :]]
