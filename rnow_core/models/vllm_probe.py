"""What a server can do, found out by asking it: versions differ, so nothing is assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.errors import RunFailed
from rnow_core.models.vllm_adapters import LOAD, MODELS
from rnow_core.models.vllm_completion import PATH, completion_body
from rnow_core.models.vllm_http import ServerError, VLLMClient
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.models.vllm_teacher import VLLMTeacher, scoring_body
from rnow_core.models.vllm_versions import DEVELOPMENT, LABEL
from rnow_core.types import SamplingParams, ScoreRequest

PROBE_IDS = (1, 2, 3)
"""Ids that every vocabulary has."""

SAME_LOGPROB = 0.02


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server as it answered. `model` is the name to ask for, `models` every name it serves, adapters included;
    `raw_logprobs` means that temperature does not change the logprobs that it returns.
    """

    model: str
    root: str
    models: tuple[str, ...]
    context_window: int
    version: str
    lora_routes: bool
    weight_routes: bool
    prompt_logprobs: bool
    token_ids: bool
    raw_logprobs: bool


async def probe(client: VLLMClient, expected_model: str | None = None) -> ServerFacts:
    """Ask a server what it serves, and try what a run needs with real calls of a few tokens.

    Args:
        client: the server.
        expected_model: the name, hub id or folder that the config names; None takes what the server has.

    Raises:
        RunFailed: the server is no vLLM, or serves another model.
    """
    cards = await _cards(client)
    card = _chosen(cards, expected_model, client)
    return ServerFacts(
        model=card["id"],
        root=str(card.get("root") or card["id"]),
        models=tuple(card["id"] for card in cards),
        context_window=int(card["max_model_len"]),
        version=str((await client.get("/version"))["version"]),
        lora_routes=await _has_route(client, LOAD),
        weight_routes=await _has_route(client, LABEL),
        prompt_logprobs=await _scores(client, card["id"]),
        token_ids=await _returns_ids(client, card["id"]),
        raw_logprobs=await _raw(client, card["id"]),
    )


def require_sampler(facts: ServerFacts, server: str, *, adapters: bool, weights: bool = False) -> None:
    """Stop before anything is spent when a server cannot be sampled from, or cannot load `adapters` or `weights`.

    Raises:
        RunFailed: naming what is missing and the flag that turns it on.
    """
    if not facts.token_ids:
        raise RunFailed(
            f"{server} (vLLM {facts.version}) returns no token ids with a completion",
            "rnow trains on the ids that were sampled: use vLLM 0.11 or newer",
        )
    if not facts.raw_logprobs:
        raise RunFailed(
            f"{server} returns logprobs after temperature and filters",
            "start it with --logprobs-mode raw_logprobs",
        )
    if adapters and not facts.lora_routes:
        raise RunFailed(
            f"{server} cannot load adapters while it runs",
            "start it with --enable-lora --max-loras 2 and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
        )
    if weights and not facts.weight_routes:
        raise RunFailed(f"{server} (vLLM {facts.version}) cannot load weights while it runs", DEVELOPMENT)


def require_teacher(facts: ServerFacts, server: str) -> None:
    """Stop before anything is spent when a server cannot score given ids.

    Raises:
        RunFailed: prompt_logprobs were refused.
    """
    if not facts.prompt_logprobs:
        raise RunFailed(
            f"{server} (vLLM {facts.version}) refuses prompt_logprobs, which scoring needs",
            "use a vLLM server that allows them; --kv-sharing-fast-prefill and some proxies switch them off",
        )


def require_window(facts: ServerFacts, server: str, window: int) -> None:
    """Stop before anything is spent when a server takes shorter sequences than the run may make.

    Raises:
        RunFailed: naming both lengths.
    """
    if facts.context_window < window:
        raise RunFailed(
            f"{server} takes {facts.context_window} tokens, and conversations of this run may have {window}",
            f"start it with --max-model-len {window}, or set rollout.max_context_window: {facts.context_window}",
        )


async def generate_and_rescore(
    client: VLLMClient,
    model: str,
    prompt_ids: Sequence[int],
    *,
    context_window: int,
    n: int = 32,
    binary: bool = False,
) -> float:
    """The largest gap, in nats, between the logprobs of `n` tokens as generated and as scored afterwards.

    Proves the one-position shift and the slice, in the form that the run will use. The design's limit is 0.02.
    """
    sampler = VLLMSampler(client, context_window=context_window - 1, base=model)
    teacher = VLLMTeacher(client, context_window=context_window, model=model, binary=binary)
    done = await sampler.sample(prompt_ids, SamplingParams(max_tokens=n, stop_ids=()), key=1)
    request = ScoreRequest((*prompt_ids, *done.ids), len(prompt_ids))
    (scored,) = await teacher.score([request])
    return max(abs(a - b) for a, b in zip(done.logprobs, scored, strict=True))


async def require_same_scores(client: VLLMClient, facts: ServerFacts, *, binary: bool = False) -> None:
    """Let a teacher generate a few tokens and score them: both must give the same logprobs.

    Raises:
        RunFailed: they differ by more than 0.02 nats: another position, slice or distribution is scored.
    """
    room = facts.context_window - len(PROBE_IDS) - 2
    gap = await generate_and_rescore(
        client,
        facts.model,
        PROBE_IDS,
        context_window=facts.context_window,
        n=min(32, room),
        binary=binary,
    )
    if gap > SAME_LOGPROB:
        raise RunFailed(
            f"{client.endpoint} scores its own tokens {gap:.3f} nats away from how it sampled them, "
            f"allowed {SAME_LOGPROB}",
            "training on these scores would be wrong: try another vLLM version, or rollout.engine: hf",
        )


async def _cards(client: VLLMClient) -> list[dict[str, Any]]:
    answer = await client.get(MODELS)
    cards = answer.get("data") if isinstance(answer, dict) else None
    if not cards or not all("max_model_len" in card for card in cards):
        raise RunFailed(
            f"{client.endpoint} answers, but GET {MODELS} does not look like vLLM's",
            "teacher.url and rollout.url take vLLM servers, since others score no given ids",
        )
    return list(cards)


def _chosen(cards: Sequence[dict[str, Any]], expected: str | None, client: VLLMClient) -> dict[str, Any]:
    for card in cards:
        if card.get("parent") is None and (expected is None or _names(card, expected)):
            return card
    served = ", ".join(f"{card['id']} ({card.get('root')})" for card in cards)
    raise RunFailed(
        f"{client.endpoint} serves {served}, expected {expected}",
        "correct the address or the model in config.yml, or start the server with that model",
    )


def _names(card: dict[str, Any], expected: str) -> bool:
    known = {str(card["id"]), str(card.get("root"))}
    return expected in known or (Path(expected).is_dir() and str(Path(expected).resolve()) in known)


async def _has_route(client: VLLMClient, path: str) -> bool:
    """An empty body is refused by the route; without one the answer is 404."""
    try:
        await client.post(path, {}, str, retry_5xx=False)
    except ServerError as error:
        return error.status in (400, 422)
    return True


async def _scores(client: VLLMClient, model: str) -> bool:
    try:
        entries = await client.post(PATH, scoring_body(model, PROBE_IDS), _prompt_logprobs)
    except ServerError as error:
        if error.status is None or error.status in (401, 403) or error.status >= 500:
            raise
        return False
    return isinstance(entries, list) and len(entries) == len(PROBE_IDS)


def _prompt_logprobs(answer: Any) -> Any:
    return answer["choices"][0].get("prompt_logprobs")


async def _returns_ids(client: VLLMClient, model: str) -> bool:
    choice = await _greedy(client, model, 1.0)
    return isinstance(choice.get("token_ids"), list)


async def _raw(client: VLLMClient, model: str) -> bool:
    """The most likely token has the same logprob at any temperature, unless it is taken after the division."""
    plain, sharp = [await _greedy(client, model, temperature) for temperature in (1.0, 0.25)]
    tops = [next(iter(_likeliest(choice).values())) for choice in (plain, sharp)]
    return abs(tops[0] - tops[1]) <= SAME_LOGPROB and tops[0] <= 0.0


async def _greedy(client: VLLMClient, model: str, temperature: float) -> dict[str, Any]:
    params = SamplingParams(max_tokens=1, stop_ids=(), temperature=temperature)
    body = completion_body(model, PROBE_IDS, params, 1, "probe") | {"logprobs": 1}
    choice: dict[str, Any] = await client.post(PATH, body, lambda answer: answer["choices"][0])
    return choice


def _likeliest(choice: dict[str, Any]) -> dict[str, float]:
    (entry,) = choice["logprobs"]["top_logprobs"]
    name = max(entry, key=entry.get)
    return {name: entry[name]}
