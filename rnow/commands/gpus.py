"""The options that place roles on GPUs, as overrides of `resources`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rnow_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """What the command line said of each role; None where it said nothing. GPUs as text: `0,1`."""

    inference_gpus: str | None = None
    teacher_gpus: str | None = None
    trainer_gpus: str | None = None
    inference_tensor_parallel: int | None = None
    inference_data_parallel: int | None = None
    teacher_tensor_parallel: int | None = None
    teacher_data_parallel: int | None = None
    trainer_data_parallel: int | None = None

    def overrides(self) -> tuple[str, ...]:
        """`resources.KEY=VALUE` for each option that was given. UsageError for what is no list of GPU numbers."""
        return tuple(
            f"resources.{name}={_numbers(name, value) if isinstance(value, str) else value}"
            for name, value in asdict(self).items()
            if value is not None
        )


def _numbers(name: str, text: str) -> list[int]:
    words = [word for word in text.replace(",", " ").split() if word]
    if not words or not all(word.isdecimal() for word in words):
        option = f"--{name.replace('_', '-')}"
        raise UsageError(f"{option} takes GPU numbers, got '{text}'", f"Example: {option} 0,1")
    return [int(word) for word in words]
