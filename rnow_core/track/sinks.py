"""Where metrics go besides metrics.jsonl. One that fails is switched off with a warning; the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from rnow_core.errors import EnvironmentMissing
from rnow_core.track.events import Emit, Event


class Sink(Protocol):
    """A place that takes metrics."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a step."""
        ...

    def finish(self) -> None:
        """Send what is still waiting."""
        ...


class GuardedSink:
    """A sink whose failures cannot stop a run: the first is emitted as a warning, then it is off."""

    def __init__(self, name: str, open_sink: Callable[[], Sink], emit: Emit) -> None:
        """`open_sink` is called at once; its failure counts as the sink's first.

        Raises:
            EnvironmentMissing: from `open_sink`, as nothing has been spent yet and the user can fix it.
        """
        self._name = name
        self._emit = emit
        self._sink: Sink | None = None
        self._guard(lambda: self._open(open_sink))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass the metrics on while the sink works."""
        if self._sink is not None:
            sink = self._sink
            self._guard(lambda: sink.log(step, metrics))

    def finish(self) -> None:
        """Finish the sink if it still works."""
        if self._sink is not None:
            self._guard(self._sink.finish)

    def _open(self, open_sink: Callable[[], Sink]) -> None:
        self._sink = open_sink()

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except EnvironmentMissing:
            raise
        except Exception as error:
            self._sink = None
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            fields = {
                "message": f"{self._name} is switched off for this run: {reason}",
                "hint": "the run goes on; metrics.jsonl has every metric",
            }
            self._emit(Event("warning", fields))
