"""The teacher of a generation: one answer from as many requests as it takes, within the limits of the run."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rnow_core.errors import RunFailed
from rnow_core.models.adaptive_limit import AdaptiveLimit
from rnow_core.models.chat_http import ChatAnswer, ChatRequest, NotThisOne, SlowDown
from rnow_core.models.vllm_http import TryAgain
from rnow_core.types import Message

TRIES = 8
PROVEN_TRIES = 3
"""Failures of one request between which others succeeded: then it is not the server that is down."""

LONGEST_REST_S = 10.0


Save = Callable[[ChatAnswer], Awaitable[None]]


class ChatTeacher(Protocol):
    """Answers conversations: a server elsewhere (`ChatClient`), or a model of this machine."""

    async def start(self, progress: Callable[[float, str], None]) -> None:
        """Load what has to be loaded; `progress(seconds, text)` is called meanwhile."""
        ...

    async def ask(
        self,
        request: ChatRequest,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        key: int = 0,
    ) -> ChatAnswer:
        """One attempt at one answer; `key` seeds it where the teacher takes a seed."""
        ...

    async def close(self) -> None:
        """End connections, servers and threads."""
        ...


class BudgetReached(RunFailed):
    """The next request could go over --max-cost."""


class GaveUp(Exception):
    """The request of one conversation fails while others succeed."""


@dataclass
class Budget:
    """What was spent, in US dollars and tokens, over all sessions of an output file.

    `price`: dollars of a million tokens (read, written), for servers that do not say what an answer cost.
    """

    max_cost: float | None = None
    price: tuple[float, float] | None = None
    cost: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    answers: int = 0

    def priced(self, answer: ChatAnswer) -> ChatAnswer:
        """The answer with its cost, as the server says it or else from the price."""
        if answer.cost is not None or self.price is None:
            return answer
        read, written = self.price
        return replace(answer, cost=(answer.tokens_in * read + answer.tokens_out * written) / 1e6)

    def add(self, tokens_in: int, tokens_out: int, cost: float | None, answers: int = 1) -> None:
        """Count what was bought."""
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.cost += cost or 0.0
        self.answers += answers

    def require_cost(self, cost: float | None) -> None:
        """RunFailed when there is a --max-cost and no way to know what an answer cost."""
        if cost is None and self.max_cost is not None:
            raise RunFailed(
                "--max-cost cannot be kept: the server does not say what an answer costs",
                "give the price of a million tokens, read and written: --price 0.15,0.60",
            )

    def check(self, in_flight: int) -> None:
        """Raise BudgetReached when the requests in flight, at the mean cost so far, could use it up."""
        if self.max_cost is None:
            return
        mean = self.cost / self.answers if self.answers else 0.0
        if self.cost + mean * in_flight > self.max_cost or self.cost >= self.max_cost:
            raise BudgetReached(
                f"stopped at --max-cost {self.max_cost:g}: {self.cost:.4f} dollars are spent",
                "the same command with a larger --max-cost goes on from here",
            )


class Asker:
    """Asks until there is an answer. `retries` and `slowed` count what failed and what met a 429."""

    def __init__(
        self, client: ChatTeacher, request: ChatRequest, gate: AdaptiveLimit, budget: Budget
    ) -> None:
        self.client, self.request, self.gate, self.budget = client, request, gate, budget
        self.retries = self.slowed = 0

    async def ask(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], save: Save, key: int = 0
    ) -> ChatAnswer:
        """One answer with its cost, counted in the budget and saved.

        Its slot is kept until it is saved: a kill then loses no more answers than there are slots. `key` seeds
        the answer of a local model.

        Raises:
            GaveUp, NotThisOne: this conversation cannot be answered.
            Closed: the run is being stopped.
            RunFailed: nothing can be answered any more.
        """
        tries = proven = slowed = 0
        successes = self.gate.successes
        while True:
            try:
                async with self.gate.slot():
                    self.budget.check(self.gate.in_flight)
                    answer = self.budget.priced(await self.client.ask(self.request, messages, tools, key))
                    self.budget.add(answer.tokens_in, answer.tokens_out, answer.cost)
                    await save(answer)
            except SlowDown as error:
                self.slowed += 1
                slowed += 1
                self.gate.slow_down(error.retry_after)
                await self.gate.rest(_rest(slowed) if error.retry_after is None else random.uniform(0, 0.05))
            except TryAgain as error:
                self.retries += 1
                tries += 1
                proven += self.gate.successes > successes
                successes = self.gate.successes
                if tries >= TRIES and proven >= PROVEN_TRIES:
                    raise GaveUp(f"{tries} requests failed, the last one: {error}") from error
                self.gate.failed(str(error))
                await self.gate.rest(error.retry_after or _rest(tries))
            except NotThisOne:
                self.gate.succeeded()
                raise
            else:
                self.gate.succeeded()
                return answer


def _rest(failures: int) -> float:
    """Seconds: twice as long after every failure, spread so that requests do not come back together."""
    return float(min(LONGEST_REST_S, 0.25 * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0))
