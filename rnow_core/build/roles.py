"""Which GPU numbers each role gets: as the config names them, the rest shared out."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnow_core.build.gpu_share import Needs
from rnow_core.config.schema import Config
from rnow_core.errors import UsageError

ROOM = 0.85
"""Of a GPU's memory, what the weights of a served model may take before it is cut over two GPUs."""


@dataclass
class Roles:
    """GPU numbers by role; an empty list is a role that needs none here."""

    inference: list[int] = field(default_factory=list)
    teacher: list[int] = field(default_factory=list)
    trainer: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def assign_roles(config: Config, gpus: int, needs: Needs) -> Roles:
    """What the config names; the other roles go to GPUs that nobody was given.

    Raises:
        UsageError: too few GPUs are left, or a role is named that this run does not have.
    """
    resources = config.resources
    sampling, scoring = not config.rollout.url, needs.teacher_weights > 0
    roles = Roles(
        list(resources.inference_gpus or []),
        list(resources.teacher_gpus or []),
        list(resources.trainer_gpus or []),
    )
    if roles.teacher and not scoring:
        raise UsageError(
            "resources.teacher_gpus is set, and no teacher server is started: the teacher is the student's own "
            "weights, runs elsewhere, or there is none",
            "leave resources.teacher_gpus out",
        )
    taken = {*roles.inference, *roles.teacher, *roles.trainer}
    free = [gpu for gpu in range(gpus) if gpu not in taken]
    missing = [
        name
        for name, needed in (("inference", sampling), ("teacher", scoring), ("trainer", True))
        if needed and not getattr(roles, name)
    ]
    if not missing:
        roles.reasons.append("GPUs as resources names them")
        return roles
    if taken and len(free) < len(missing):
        raise UsageError(
            f"resources leaves {len(free)} of {gpus} GPU(s) for {', '.join(missing)}",
            "name the GPUs of every role: resources.inference_gpus, teacher_gpus, trainer_gpus",
        )
    _share_out(roles, missing, free, needs)
    return roles


def _share_out(roles: Roles, missing: list[str], free: list[int], needs: Needs) -> None:
    """The missing roles on the free GPUs: half of them for the servers, the rest for training."""
    if len(free) < len(missing):
        for name in missing:
            setattr(roles, name, [free[-1] if name == "trainer" else free[0]])
        if len(free) == 2:
            roles.reasons.append("two GPUs: both servers on the first, training on the second")
        return
    weights = {"inference": needs.student_weights, "teacher": needs.teacher_weights}
    cut = {name: tensor_parallel(weights[name], needs.gpu_memory) for name in missing if name != "trainer"}
    trains = len(missing) > len(cut)
    counts: dict[str, int] = {}
    spare = len(free)
    for place, (name, least) in enumerate(cut.items()):
        others = len(missing) - place - 1
        portion = max(least, len(free) // (len(cut) * (2 if trains else 1)))
        counts[name] = _multiple(min(portion, spare - others), least)
        spare -= counts[name]
    if trains:
        counts["trainer"] = spare
    else:
        first, least = next(iter(cut.items()))
        counts[first] += spare - spare % least
    for name, count in counts.items():
        setattr(roles, name, free[:count])
        del free[:count]
    roles.reasons.append("each role on GPUs of its own")


def _multiple(count: int, of: int) -> int:
    """The largest multiple that is not larger; a smaller count stays."""
    return count - count % of if count >= of else count


def tensor_parallel(weights: int, memory: int) -> int:
    """The smallest power of two of GPUs that holds the weights."""
    cut = 1
    while weights / cut > ROOM * memory:
        cut *= 2
    return cut
