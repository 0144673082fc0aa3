"""An exponential moving average of the adapter that trains, which a teacher wears (`teacher.ema`).

A and B are averaged separately. The average of their products would be something else, and no adapter: its rank grows
with the steps. (Mean teachers: Tarvainen and Valpola, arXiv 1703.01780.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import Parameter

from rnow_core.errors import RnowError
from rnow_core.models.adapter import copy_tensors

FILE = "averaged_adapter.safetensors"


class AveragedAdapter:
    """average <- decay * average + (1 - decay) * weights, in float32, beginning with the weights as they are.

    Belongs to the learner, which calls `update` behind each optimizer step and saves it with the checkpoint.
    """

    def __init__(self, parameters: Mapping[str, Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self._average = {name: weight.detach().clone() for name, weight in self._parameters.items()}

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the weights as they are."""
        for name, weight in self._parameters.items():
            self._average[name].copy_(weight)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights behind an optimizer step."""
        for name, weight in self._parameters.items():
            self._average[name].lerp_(weight, 1.0 - self._decay)

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Inside, the model computes with the average; tensors change places, nothing is copied."""
        held = {name: weight.data for name, weight in self._parameters.items()}
        for name, weight in self._parameters.items():
            weight.data = self._average[name]
        try:
            yield
        finally:
            for name, weight in self._parameters.items():
                weight.data = held[name]

    def save(self, folder: Path) -> None:
        """Write the average; equal weights give equal bytes."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in sorted(self._average.items())}
        save_file(tensors, folder / FILE)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote. RnowError when it is missing or of another shape."""
        if not (folder / FILE).is_file():
            raise RnowError(
                f"{folder} has no {FILE}: it was saved without teacher.ema",
                "resume with the teacher that the run was started with",
            )
        copy_tensors(load_file(folder / FILE), self._average, folder / FILE)
