"""AdamW over named parameters: built from settings, stepped with a given rate, saved and restored exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from rnow_core.errors import RnowError
from rnow_core.models.schedule import Schedule, learning_rate

FILE = "optimizer.safetensors"
STATE = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """The `trainer` keys that shape an update. `max_grad_norm` 0 means no clipping."""

    learning_rate: float
    total_steps: int
    lr_schedule: Schedule = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    updates_per_batch: int = 1

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        return learning_rate(step, self.learning_rate, self.lr_schedule, self.warmup_steps, self.total_steps)


class Optimizer:
    """AdamW (betas 0.9 and 0.999, eps 1e-8), fused. Vectors such as norms and biases are not decayed."""

    def __init__(self, parameters: Mapping[str, Parameter], settings: OptimizerSettings) -> None:
        self._parameters = dict(parameters)
        self._settings = settings
        matrices = [weight for weight in self._parameters.values() if weight.dim() > 1]
        vectors = [weight for weight in self._parameters.values() if weight.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}]
        groups += [{"params": vectors, "weight_decay": 0.0}] if vectors else []
        self._adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Scale the gradients down to `max_grad_norm` (2-norm over all); returns the norm before that."""
        limit = self._settings.max_grad_norm or float("inf")
        return torch.nn.utils.clip_grad_norm_(list(self._parameters.values()), limit)

    def step(self, rate: float) -> None:
        """Move the parameters along their gradients."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()

    def save(self, folder: Path, step: int) -> None:
        """Write moments and counters, and the run's step."""
        tensors = {"step": torch.tensor(step)}
        for name, weight in self._parameters.items():
            state = self._adamw.state.get(weight, {})
            tensors |= {
                f"{name}/{key}": state[key].detach().cpu().contiguous() for key in STATE if key in state
            }
        save_file(dict(sorted(tensors.items())), folder / FILE)

    def load(self, folder: Path) -> int:
        """Restore what `save` wrote; returns the run's step. RnowError when the parameters are others."""
        saved = load_file(folder / FILE)
        step = int(saved.pop("step"))
        self._adamw.state.clear()
        for name, weight in self._parameters.items():
            state = {key: saved.pop(f"{name}/{key}", None) for key in STATE}
            if all(tensor is None for tensor in state.values()):
                continue
            if any(tensor is None for tensor in state.values()) or state["exp_avg"].shape != weight.shape:
                raise _mismatch(folder, name)
            # copied: what safetensors reads may still be mapped from the file
            copies = {key: tensor.to(weight.device, copy=True) for key, tensor in state.items()}
            self._adamw.state[weight] = copies
        if saved:
            raise _mismatch(folder, min(saved))
        return step


def _mismatch(folder: Path, name: str) -> RnowError:
    return RnowError(
        f"{folder / FILE}: the optimizer state of {name} does not fit the model",
        "resume with the model and the rank that the run was started with",
    )
