"""What a trainer rank above 0 does: the commands of rank 0, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.ranks import STOP, Ranks


def follow_commands(learner: HFLearner, ranks: Ranks) -> None:
    """Take part in every update and load until rank 0 says that it is over.

    Any error ends this rank: whether the others can go on is not for it to say. Raises LostRank when rank 0
    is gone.
    """
    commands: dict[str, Callable[..., object]] = {"update": learner.update, "load": learner.load}
    while True:
        name, arguments = ranks.next_command()
        if name == STOP:
            return
        commands[name](*arguments)
