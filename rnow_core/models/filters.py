"""What other sampling parameters than the default do to the logits, as the field defines them.

In the order of transformers: repetition penalty, temperature, top_k, top_p, min_p. R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rnow_core.errors import RnowError
from rnow_core.types import SamplingParams


def check_params(params: SamplingParams) -> None:
    """Raise RnowError for a value outside its range."""
    ranges = {
        "max_tokens": (params.max_tokens >= 1, "at least 1"),
        "temperature": (params.temperature >= 0.0, "at least 0 (0 takes the most likely token)"),
        "top_p": (0.0 < params.top_p <= 1.0, "above 0 and at most 1 (1 keeps every token)"),
        "top_k": (params.top_k >= 0, "at least 0 (0 keeps every token)"),
        "min_p": (0.0 <= params.min_p <= 1.0, "between 0 and 1 (0 keeps every token)"),
        "repetition_penalty": (params.repetition_penalty > 0.0, "above 0 (1 changes nothing)"),
    }
    for name, (fine, expected) in ranges.items():
        if not fine:
            raise RnowError(f"sampling: {name} is {getattr(params, name)}, expected {expected}")


@dataclass(frozen=True, slots=True)
class Filters:
    """One column a parameter, None where it is neutral in every row; a neutral value in one row changes
    nothing.

    `seen_RV` marks the ids of prompt and reply, for the repetition penalty; the decode loop keeps it current.
    """

    temperature_R: Tensor | None = None
    greedy_R: Tensor | None = None
    top_k_R: Tensor | None = None
    top_p_R: Tensor | None = None
    min_p_R: Tensor | None = None
    penalty_R: Tensor | None = None
    seen_RV: Tensor | None = None

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocab: int, device: torch.device) -> Filters | None:
        """The filters of these rows, or None when every row samples from the plain softmax."""
        found: dict[str, Tensor] = {}
        if any(p.temperature != 1.0 for p in params):
            found["temperature_R"] = torch.tensor([p.temperature or 1.0 for p in params], device=device)
        if any(p.temperature == 0.0 for p in params):
            found["greedy_R"] = torch.tensor([p.temperature == 0.0 for p in params], device=device)
        if any(0 < p.top_k < vocab for p in params):
            found["top_k_R"] = torch.tensor([min(p.top_k or vocab, vocab) for p in params], device=device)
        if any(p.top_p < 1.0 for p in params):
            found["top_p_R"] = torch.tensor([p.top_p for p in params], device=device)
        if any(p.min_p > 0.0 for p in params):
            found["min_p_R"] = torch.tensor([p.min_p for p in params], device=device)
        if any(p.repetition_penalty != 1.0 for p in params):
            found["penalty_R"] = torch.tensor([p.repetition_penalty for p in params], device=device)
            found["seen_RV"] = torch.zeros(len(params), vocab, dtype=torch.bool, device=device)
        return cls(**found) if found else None

    def rows(self, rows: slice) -> Filters:
        """The filters of some rows, as views."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Filters(**{name: None if column is None else column[rows] for name, column in columns.items()})

    def see(self, ids_R: Tensor) -> None:
        """Note one sampled id a row."""
        if self.seen_RV is not None:
            self.seen_RV.scatter_(1, ids_R[:, None], True)

    def see_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """Note the ids of every row's prompt."""
        if self.seen_RV is not None:
            for row, ids in enumerate(prompts):
                self.seen_RV[row, torch.tensor(ids, device=self.seen_RV.device)] = True

    def see_sampled(self, ids_RT: Tensor, count_R: Tensor) -> None:
        """Note the first `count_R` ids of every row; each row has at least one."""
        if self.seen_RV is not None:
            column = torch.arange(ids_RT.shape[1], device=ids_RT.device)
            known_RT = torch.where(column < count_R[:, None], ids_RT, ids_RT[:, :1])
            self.seen_RV.scatter_(1, known_RT, True)

    def apply(self, logits_RV: Tensor) -> Tensor:
        """The filtered logits [R, V]: -inf where a token may not be drawn. The best token always stays."""
        if self.penalty_R is not None and self.seen_RV is not None:
            logits_RV = _penalise(logits_RV, self.penalty_R, self.seen_RV)
        if self.temperature_R is not None:
            logits_RV = logits_RV / self.temperature_R[:, None]
        if self.top_k_R is not None:
            logits_RV = _keep_top_k(logits_RV, self.top_k_R)
        if self.top_p_R is not None:
            logits_RV = _keep_top_p(logits_RV, self.top_p_R)
        if self.min_p_R is not None:
            logits_RV = _keep_min_p(logits_RV, self.min_p_R)
        return logits_RV


def _penalise(logits_RV: Tensor, penalty_R: Tensor, seen_RV: Tensor) -> Tensor:
    """Keskar et al. 2019 (CTRL): positive logits of seen ids are divided, negative ones multiplied."""
    penalty = penalty_R[:, None]
    penalised = torch.where(logits_RV > 0, logits_RV / penalty, logits_RV * penalty)
    return torch.where(seen_RV, penalised, logits_RV)


def _keep_top_k(logits_RV: Tensor, top_k_R: Tensor) -> Tensor:
    """Keep the k largest logits and whatever equals the k-th."""
    largest = logits_RV.topk(int(top_k_R.max()), dim=-1).values
    threshold = largest.gather(1, top_k_R[:, None] - 1)
    return logits_RV.masked_fill(logits_RV < threshold, -torch.inf)


def _keep_top_p(logits_RV: Tensor, top_p_R: Tensor) -> Tensor:
    """Holtzman et al. 2019: the smallest set of the most likely tokens that reaches the mass p."""
    ordered, order = logits_RV.sort(dim=-1, descending=True, stable=True)
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1, dtype=torch.float64) - probs
    # rounding can bring the mass before a far tail token to 1: rows without top_p keep it all the same
    dropped = (before >= top_p_R[:, None]) & (top_p_R[:, None] < 1.0)
    dropped[:, 0] = False
    return logits_RV.masked_fill(torch.zeros_like(dropped).scatter_(1, order, dropped), -torch.inf)


def _keep_min_p(logits_RV: Tensor, min_p_R: Tensor) -> Tensor:
    """Nguyen et al. 2024: keep tokens with at least min_p times the probability of the most likely one."""
    floor = logits_RV.amax(-1, keepdim=True) + min_p_R[:, None].log()
    return logits_RV.masked_fill(logits_RV < floor, -torch.inf)
