"""Scoring that forwards what requests have in common once: a teacher's context, the prompt of a group.

Two levels come up: the context before all requests of a step, and the whole prompt before the samples of a group.
Each prefix is forwarded alone, so its keys and values depend on nothing but its ids and where it is cut; one that
was kept from an earlier step is bit for bit what a resumed run computes anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.columns import choose, ragged, slabs
from rnow_core.models.device import memory_errors
from rnow_core.models.families import Family, families
from rnow_core.models.prefix_attention import Prefix, compute_prefix, hidden_behind, shares_prefixes
from rnow_core.models.scoring import MEMORY_HINT, TokenLogprobs, check_finite, score, through_head
from rnow_core.types import ScoreRequest

KEPT_TOKENS = 8192
"""Tokens whose keys and values are kept from step to step. A longer context is computed once a step."""

FREE_SHARE = 4
"""On a GPU they are kept only where so many times their memory is free when scoring is over: the update comes next."""


@dataclass
class PrefixScorer:
    """`scoring.score` of one model, with shared prefixes where the model allows it and it pays.

    With `keep`, which needs weights that never change, the prefix of several prompts stays for later calls.
    """

    lm: CausalLM
    token_logprobs: TokenLogprobs
    budget: int
    keep: bool

    def __post_init__(self) -> None:
        self._capable: bool | None = None
        self._kept: dict[tuple[int, ...], Prefix] = {}

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One list a request: log p of ids[start:], in order. Errors are those of `scoring.score`."""
        if any(not 1 <= request.start <= len(request.ids) for request in requests):
            return score(self.lm, requests, self.token_logprobs, self.budget)
        tree = families(requests)
        if not tree.children or not self._shares():
            return score(self.lm, requests, self.token_logprobs, self.budget)
        self.lm.model.eval()  # a layer that recomputes for the backward pass would drop the prefix that it is given
        self.lm.check_ids(max(max(request.ids) for request in requests), "scoring")
        found: dict[int, list[float]] = {}
        with torch.no_grad(), memory_errors("scoring", MEMORY_HINT):
            for family in tree.children:
                self._score_family(family, requests, None, 0, found)
        self._limit()
        rest = [number for number in range(len(requests)) if number not in found]
        plain = score(self.lm, [requests[number] for number in rest], self.token_logprobs, self.budget)
        found.update(zip(rest, plain, strict=True))
        return [found[number] for number in range(len(requests))]

    def drop(self) -> bool:
        """Forget what is kept; False when that was nothing."""
        held = bool(self._kept)
        self._kept.clear()
        return held

    def _shares(self) -> bool:
        if self._capable is None:
            self._capable = shares_prefixes(self.lm)
        return self._capable

    def _score_family(
        self,
        family: Family,
        requests: Sequence[ScoreRequest],
        parent: Prefix | None,
        depth: int,
        found: dict[int, list[float]],
    ) -> None:
        """Score the rows of a family and of those below it; `depth` ids are in front of it already."""
        ids = requests[_first(family)].ids
        prefix = self._prefix(ids[depth : family.length], parent, keep=not (family.whole or depth))
        if family.rows:
            found.update(self._score_rows(family.rows, requests, prefix))
        for child in family.children:
            self._score_family(child, requests, prefix, family.length, found)

    def _prefix(self, ids: tuple[int, ...], parent: Prefix | None, *, keep: bool) -> Prefix:
        if keep and ids in self._kept:
            self._kept[ids] = self._kept.pop(ids)  # the latest in use stands last
            return self._kept[ids]
        prefix = compute_prefix(self.lm, ids, self.budget, parent)
        if self.keep and keep:
            self._kept[ids] = prefix
        return prefix

    def _limit(self) -> None:
        """Forget the oldest prefixes beyond KEPT_TOKENS, and all where the GPU's memory is scarce."""
        while sum(map(len, self._kept)) > KEPT_TOKENS:
            del self._kept[next(iter(self._kept))]
        if self._kept and self.lm.device.type == "cuda":
            device = self.lm.device
            unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            free = torch.cuda.mem_get_info(device)[0] + unused
            if FREE_SHARE * sum(prefix.bytes for prefix in self._kept.values()) > free:
                self.drop()

    def _score_rows(
        self, rows: Sequence[int], requests: Sequence[ScoreRequest], prefix: Prefix
    ) -> dict[int, list[float]]:
        """Rows right behind a prefix, longest first, in micro-batches of at most `budget` tokens of their own."""
        own = [requests[row].ids[prefix.length :] for row in rows]
        starts_R = torch.tensor([requests[row].start - prefix.length for row in rows])
        ids_F = torch.tensor(list(chain.from_iterable(own)))
        lengths_R = torch.tensor([len(ids) for ids in own])
        row_F, within_F = ragged(lengths_R)
        chosen = choose(within_F >= starts_R[row_F], lengths_R)
        ids_N = ids_F[chosen.flat_N].to(self.lm.device)
        logp_N = torch.empty(len(ids_N), device=self.lm.device)
        for slab in slabs(ids_F, lengths_R, chosen, self.budget, self.lm.device, packed=False):
            hidden_RLH = hidden_behind(self.lm, slab.ids_BL, prefix)
            ids = ids_N[slab.chosen_N]
            logp_N[slab.chosen_N] = through_head(
                self.lm, self.token_logprobs, hidden_RLH, slab.before_N, ids
            )[0]
        check_finite(logp_N, self.lm.name)
        parts = torch.split(logp_N.cpu(), (lengths_R - starts_R).tolist())
        return {row: part.tolist() for row, part in zip(rows, parts, strict=True)}


def _first(family: Family) -> int:
    """Any request of a family."""
    return family.rows[0] if family.rows else _first(family.children[0])
