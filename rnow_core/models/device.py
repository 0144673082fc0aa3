"""Where local tensor work runs: one device, one thread.

Sampler, teacher and learner of a run share weights, and the teacher `self` switches the adapter off for a
moment. If all of them compute in one thread, no two can see the weights in different states, and the order of
floating-point reductions depends on nothing but the work itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

from rnow_core.errors import RunFailed

TINY_MODEL = 5_000_000

P = ParamSpec("P")
R = TypeVar("R")


def pick_device() -> torch.device:
    """The first CUDA device when there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def device_named(name: str) -> torch.device:
    """The device of a stored name; a RunFailed when this machine does not have it."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RunFailed(
            f"this run began on {name}, and there is no GPU here", "resume it on a machine with a GPU"
        )
    return device


def use_device(device: torch.device) -> None:
    """Make it the calling thread's current device: kernels that are compiled on the spot ask for that one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def free_cache() -> None:
    """Give memory that torch holds and does not use back to the GPU, for other processes; nothing on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def cpu_threads(parameters: int) -> int:
    """Cores for one CPU operation on a model of so many parameters: one for a tiny model, else torch's default.

    Threads meet at the end of every operation. In a tiny model that is every few microseconds: a second thread wins
    a third at best, and when something else wants a core as well, each meeting waits for the scheduler and a step
    takes a hundred times as long.
    """
    return 1 if parameters < TINY_MODEL else torch.get_num_threads()


@contextmanager
def memory_errors(doing: str, hint: str) -> Iterator[None]:
    """Turn running out of memory (GPU, or the CPU allocator) into a RunFailed that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunFailed(f"out of GPU memory while {doing}: {str(error).splitlines()[0]}", hint) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise RunFailed(f"out of memory while {doing}", hint) from error


class DeviceThread:
    """The one worker thread of a run through which all local torch compute goes."""

    def __init__(self, threads: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rnow-device")
        self._ident = self._pool.submit(threading.get_ident).result()
        if threads is not None:
            self.set_threads(threads)

    def set_threads(self, threads: int) -> None:
        """Cores per CPU operation. Sums depend on it in the last bit, so it is fixed once, at run start."""
        self.call(torch.set_num_threads, threads)

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the work on the device thread and wait for it without blocking the event loop."""
        return await asyncio.wrap_future(self._pool.submit(work, *args, **kwargs))

    def call(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the work on the device thread and block until it is done; on that thread itself, just do it."""
        if threading.get_ident() == self._ident:
            return work(*args, **kwargs)
        return self._pool.submit(work, *args, **kwargs).result()

    def close(self) -> None:
        """Finish what is queued and end the thread. Closing twice is fine."""
        self._pool.shutdown(wait=True)
