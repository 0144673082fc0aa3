"""Continuous batching over one model: requests wait in line, join between tokens, leave when they are done.

Runs on the device thread. Which rows share a forward is a pure function of the requests, their order and how
they were handed over: nothing looks at a clock. A loop that raised is broken and must be thrown away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.decode_attention import grouped_attention
from rnow_core.models.kv_cache import PromptCache, SlotCache, attention_windows, decode_masks
from rnow_core.models.output_head import OutputHead
from rnow_core.models.rows import Columns, Request, Rows
from rnow_core.models.sampling import sample, uniforms

PREFILL_TOKENS = 8192
"""Positions of one prefill forward, padding included; a longer prompt goes alone."""

CHUNK_LOGITS = 1 << 25
"""Logits made at once: rows are sampled in portions of at most 128 MiB."""

RESERVED_TOKENS = 64
"""Sampled tokens that new rows get room for at once; replies that outgrow it make the cache grow."""

BURST_STEPS = 64
"""Forwards after which the device thread is given up for a moment, finished rows or not."""

Sampled = tuple[Request, list[int], list[float]]


class DecodeLoop:
    """The slots of a sampler. `interrupted` may be set from another thread to end a burst after its token."""

    def __init__(self, lm: CausalLM, *, max_slots: int, kv_budget_tokens: int) -> None:
        self.interrupted = False
        self._lm = lm
        self._config = lm.model.get_decoder().config
        self._windows = attention_windows(self._config, lm.name)
        self._max_slots, self._kv_budget = max_slots, kv_budget_tokens
        self._waiting: deque[Request] = deque()
        self._rows = Rows(lm.vocab_rows, lm.device)
        self._cache = SlotCache()

    @property
    def busy(self) -> bool:
        """Whether any request waits or is being decoded."""
        return bool(self._waiting or len(self._rows))

    @torch.inference_mode()
    def burst(self, arrived: Sequence[Request], dropped: Collection[Request]) -> list[Sampled]:
        """Take new requests, forget the dropped, decode until some are finished, and return those."""
        self._waiting.extend(arrived)
        self._forget(dropped)
        head = self._lm.head
        done: list[Sampled] = []
        for _ in range(BURST_STEPS):
            joining = self._next_joining()
            if joining:
                self._join(joining, head)
            elif len(self._rows):
                self._decode(head)
            done = self._finish(self._rows.finished())
            if done or self.interrupted or not self.busy:
                break
        return done

    def _forget(self, dropped: Collection[Request]) -> None:
        if dropped:
            self._waiting = deque(request for request in self._waiting if request not in dropped)
            self._leave([row for row, request in enumerate(self._rows.requests) if request in dropped])

    def _next_joining(self) -> list[Request]:
        """The head of the line as far as slots and budget allow: first come, first served, no overtaking.

        A row keeps room for its longest possible reply, so nothing is ever evicted. Where the line is long,
        rows join in portions of an eighth of the active: a prefill for every free slot would stall decoding.
        """
        active = len(self._rows)
        if not self._waiting or active >= self._max_slots:
            return []
        longest = max((request.span for request in self._rows.requests), default=0)
        fitting = 0
        for request in self._waiting:
            longest = max(longest, request.span)
            rows = active + fitting + 1
            if rows > self._max_slots or rows * longest > self._kv_budget:
                break
            fitting += 1
        if fitting < min(len(self._waiting), max(1, active // 8)):
            return []
        return [self._waiting.popleft() for _ in range(fitting)]

    def _join(self, requests: list[Request], head: OutputHead) -> None:
        active = len(self._rows)
        longest = max(request.span for request in requests)
        ahead = max(len(request.ids) for request in requests) + RESERVED_TOKENS
        self._cache.reserve(active + len(requests), min(longest, ahead))
        hidden_RH = self._prefill(requests, active)
        columns = Columns.of(requests, head.weight_VH.shape[0], hidden_RH.device)
        if columns.filters is not None:
            columns.filters.see_prompts([request.ids for request in requests])
        ids_R, logp_R = self._sample(hidden_RH, head, columns, torch.zeros_like(columns.key_R))
        self._rows.join(requests, ids_R, logp_R)

    def _prefill(self, requests: Sequence[Request], first_slot: int) -> Tensor:
        """Fill the new slots -> hidden states behind their prompts [R, H]. Equal prompts are run once."""
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, request in enumerate(requests):
            rows_of.setdefault(request.ids, []).append(row)
        last: list[Tensor] = []
        slots: list[int] = []
        for prompts in prefill_batches([*rows_of]):
            cache = PromptCache()
            last_PH = self._forward_prompts(prompts, cache)
            pairs = [(index, row) for index, prompt in enumerate(prompts) for row in rows_of[prompt]]
            prompt_R, row_R = torch.tensor(pairs, device=last_PH.device).unbind(1)
            self._cache.store(cache, prompt_R, row_R + first_slot)
            last.append(last_PH[prompt_R])
            slots += [row for _, row in pairs]
        return torch.cat(last)[torch.tensor(slots, device=last[0].device).argsort()]

    def _forward_prompts(self, prompts: Sequence[tuple[int, ...]], cache: PromptCache) -> Tensor:
        """Right-padded and plainly causal: no real token sees the padding -> last hidden states [P, H]."""
        device = self._lm.device
        width = max(map(len, prompts))
        ids_PL = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in prompts], device=device)
        position_1L = torch.arange(width, device=device)[None]
        hidden_PLH = self._lm.hidden(ids_PL, None, position_1L, cache, use_cache=True)
        last_P = torch.tensor([len(ids) - 1 for ids in prompts], device=device)
        return hidden_PLH[torch.arange(len(prompts), device=device), last_P]

    def _decode(self, head: OutputHead) -> None:
        rows = self._rows
        width = self._cache.begin(rows.position_N, rows.reach)
        masks: Any = decode_masks(self._windows, rows.position_N, width, self._lm.dtype)
        with grouped_attention(self._config):
            hidden_N1H = self._lm.hidden(
                rows.last_N[:, None], masks, rows.position_N[:, None], self._cache, use_cache=True
            )
        rows.record(*self._sample(hidden_N1H[:, 0], head, rows.columns, rows.count_N))

    def _sample(
        self, hidden_RH: Tensor, head: OutputHead, columns: Columns, count_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        uniform_R = uniforms(columns.key_R, count_R)
        portion = max(1, CHUNK_LOGITS // head.weight_VH.shape[0])
        if len(hidden_RH) <= portion:
            return sample(head.logits(hidden_RH), uniform_R, columns.filters)
        parts = []
        for start in range(0, len(hidden_RH), portion):
            rows = slice(start, start + portion)
            filters = columns.filters and columns.filters.rows(rows)
            parts.append(sample(head.logits(hidden_RH[rows]), uniform_R[rows], filters))
        ids, logps = zip(*parts, strict=True)
        return torch.cat(ids), torch.cat(logps)

    def _finish(self, rows: list[int]) -> list[Sampled]:
        if not rows:
            return []
        sampled = [
            (self._rows.requests[row], *found)
            for row, found in zip(rows, self._rows.sampled(rows), strict=True)
        ]
        self._leave(rows)
        return sampled

    def _leave(self, rows: list[int]) -> None:
        length = self._rows.reach
        self._cache.move(*self._rows.leave(rows), length)


def prefill_batches(prompts: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Prompts of similar length together: at most PREFILL_TOKENS positions and about a quarter of padding."""
    batch: list[tuple[int, ...]] = []
    for prompt in sorted(prompts, key=len):
        wide = bool(batch) and len(prompt) > len(batch[0]) * 5 // 4 + 8
        if batch and (wide or (len(batch) + 1) * len(prompt) > PREFILL_TOKENS):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch
