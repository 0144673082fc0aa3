"""Where weights in 4 bits cannot be had: rules about `model.quantization` and `teacher.quantization`."""

from __future__ import annotations

from collections.abc import Iterator

from rnow_core.config.problems import KeyPath, Problem
from rnow_core.config.schema import Config

CODE = "RN129"


def quantized_weights(config: Config) -> Iterator[Problem]:
    """A server elsewhere serves weights of its own, and `self` has the student's."""
    if config.model.quantization is not None and config.rollout.url is not None:
        message = (
            "`model.quantization` trains over weights in 4 bits, and the server at `rollout.url` has others"
        )
        also: tuple[KeyPath, ...] = (("rollout", "url"),)
        hint = "leave rollout.url out: rnow serves the 4-bit weights itself, or samples in this process"
        yield Problem(CODE, ("model", "quantization"), message, hint, also=also)
    for index, teacher in enumerate(config.teacher):
        path: KeyPath = ("teacher", index, "quantization")
        if teacher.quantization is None:
            continue
        if teacher.path == "self":
            message = (
                "`teacher.path: self` is the student's own base, whose weights `model.quantization` decides"
            )
            yield Problem(CODE, path, message, "remove it", also=(("teacher", index, "path"),))
        elif teacher.url is not None:
            message = (
                "`teacher.quantization` is for weights that rnow loads, and the server at `url` has its own"
            )
            yield Problem(CODE, path, message, "remove one", also=(("teacher", index, "url"),))
