"""How a run is asked to stop: set from a signal handler or another thread, read between steps."""

from __future__ import annotations


class StopSignal:
    """A flag that goes up once and stays up.

    A run reads `requested` between steps: when it is True it saves a checkpoint and raises `Interrupted`.
    """

    def __init__(self) -> None:
        self._requested = False

    @property
    def requested(self) -> bool:
        """True once somebody asked the run to stop."""
        return self._requested

    def request(self) -> None:
        """Ask the run to stop after the step it is in. Safe inside a signal handler."""
        self._requested = True
