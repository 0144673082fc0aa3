"""How much of a GPU's memory each server gets. Bytes in, shares of a GPU out."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
SERVER_OVERHEAD = 4 * GIB
"""Of a server besides weights and cache: the CUDA context, graphs, activations, logits of the tokens that it scores."""

ASLEEP = 2 * GIB
"""What a sleeping server keeps on the GPU: its CUDA context and its graphs."""

USABLE = 0.94
"""Share of a GPU that is planned with; the rest is the driver's, and fragmentation."""

ALONE = 0.9
COMFORT_SEQUENCES = 32
"""Sequences of full length that a sampler should hold at once before memory is split with the trainer."""


@dataclass(frozen=True)
class Needs:
    """Bytes. `teacher_weights` is 0 without a teacher server; `trainer_resident` stays over a whole step,
    `trainer_peak` is reached in the update; `token_bytes` is one cached token of the student.
    """

    gpu_memory: int
    student_weights: int
    teacher_weights: int
    trainer_resident: int
    trainer_peak: int
    token_bytes: int
    step_tokens: int
    longest: int

    @property
    def comfortable_cache(self) -> int:
        """Bytes of cache for a step's rollouts at once, or for a good part of them."""
        return self.token_bytes * min(self.step_tokens, COMFORT_SEQUENCES * self.longest)

    @property
    def teacher_server(self) -> int:
        """Bytes of a server that scores: a few sequences at a time need no large cache."""
        return self.teacher_weights + SERVER_OVERHEAD if self.teacher_weights else 0


@dataclass(frozen=True)
class Shares:
    """`--gpu-memory-utilization` of the servers: parts of each of their GPUs' memory."""

    student: float = ALONE
    teacher: float = ALONE


ALL = Shares()


def alone(needs: Needs, together: bool) -> tuple[Shares, str]:
    """The trainer is elsewhere; `together`: both servers are on the same GPUs."""
    if not together:
        return ALL, "servers use their GPUs alone"
    teacher = min(0.7, (needs.teacher_server + GIB) / needs.gpu_memory)
    return _rounded(USABLE - teacher, teacher), "both servers share their GPU's memory"


def side_by_side(needs: Needs) -> tuple[Shares, str] | None:
    """Everything on one GPU at once, if it fits; None when it does not."""
    usable = USABLE * needs.gpu_memory
    student = usable - needs.trainer_peak - needs.teacher_server
    wanted = needs.student_weights + SERVER_OVERHEAD + needs.comfortable_cache
    if student < wanted:
        return None
    why = (
        f"one GPU ({needs.gpu_memory / GIB:.0f} GiB), memory split: training takes up to "
        f"{needs.trainer_peak / GIB:.1f} GiB, the servers the rest"
    )
    return _rounded(student / needs.gpu_memory, needs.teacher_server / needs.gpu_memory), why


def asleep_in_turns(needs: Needs) -> tuple[Shares, str]:
    """On one GPU in turns: while one works, the others' weights wait in the machine's memory."""
    sleeping = ASLEEP if needs.teacher_weights else 0
    share = (USABLE * needs.gpu_memory - needs.trainer_resident - sleeping) / needs.gpu_memory
    sizes = f"training {needs.trainer_peak / GIB:.1f} GiB, student {needs.student_weights / GIB:.1f} GiB"
    sizes += f", teacher {needs.teacher_weights / GIB:.1f} GiB" if needs.teacher_weights else ""
    why = (
        f"one GPU ({needs.gpu_memory / GIB:.0f} GiB) does not hold everything at once ({sizes}, caches): servers and "
        f"trainer take turns, asleep while another works"
    )
    return _rounded(share, share), why


def _rounded(student: float, teacher: float) -> Shares:
    """Two digits, rounded down; vLLM wants more than 0."""
    return Shares(*(max(0.05, int(share * 100) / 100) for share in (student, teacher)))
