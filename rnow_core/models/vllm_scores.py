"""What every way of scoring with vLLM shares: which entry belongs to which id, and which logprob can be believed."""

from __future__ import annotations

import math
from typing import Any

from rnow_core.errors import RunFailed
from rnow_core.models.vllm_completion import FLOOR
from rnow_core.types import ScoreRequest

Entry = dict[str, dict[str, Any]]
"""What vLLM says of one position: id -> logprob and rank. Its order means nothing."""


def scored_entries(entries: Any, request: ScoreRequest, server: str) -> list[Entry]:
    """The entries of ids[start:] out of `prompt_logprobs`, each of which holds the id that stands there.

    Entry t of the answer belongs to ids[t] given ids[:t]; the first is null.

    Raises:
        RunFailed: another number of entries, or one without its id.
    """
    if not isinstance(entries, list) or len(entries) != len(request.ids):
        got = f"{len(entries)} entries" if isinstance(entries, list) else type(entries).__name__
        raise RunFailed(
            f"{server} sent {got} as prompt_logprobs, expected {len(request.ids)} entries",
            "the server must be vLLM with prompt_logprobs allowed",
        )
    if entries[0] is not None:
        raise RunFailed(f"{server} sent a logprob for the first id, which has none before it")
    for position in range(request.start, len(request.ids)):
        entry, token = entries[position], request.ids[position]
        if not isinstance(entry, dict) or str(token) not in entry:
            held = sorted(entry) if isinstance(entry, dict) else entry
            raise RunFailed(
                f"{server}: the logprob of id {token} at position {position} is missing, got {held}"
            )
    return entries[request.start :]


def given_logprob(entry: Entry, token: int, position: int, server: str) -> float:
    """The logprob of the id that stands at `position`. RunFailed when it is not finite or contradicts its rank."""
    found = entry[str(token)]
    value = checked_logprob(float(found["logprob"]), token, position, server)
    if found.get("rank") == 1 and any(other["logprob"] > value for other in entry.values()):
        raise RunFailed(f"{server}: id {token} at position {position} has rank 1 and not the largest logprob")
    return value


def checked_logprob(value: float, token: int, position: int, server: str) -> float:
    """`value`, unless it is NaN, infinite or vLLM's stand-in for that (RunFailed)."""
    if math.isfinite(value) and value > FLOOR:
        return value
    raise RunFailed(
        f"{server}: the logprob of id {token} at position {position} is {value}, expected a finite number",
        "the teacher gives this id no probability at all: its weights are broken, or its vocabulary is another",
    )
