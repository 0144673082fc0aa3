"""Are a model folder's weights all there: read from the headers of its safetensors files, without torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from rnow_core.errors import Finding, FindingsError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PYTORCH = ("pytorch_model.bin", "pytorch_model.bin.index.json")
LFS_POINTER = b"version https://git-lfs"
MAX_HEADER = 100_000_000
"""Bytes; the format's own limit for a header."""


class _BrokenError(Exception):
    """A weights file is not whole; the message says why."""


def count_weights(folder: Path, path: str, key: str) -> int | None:
    """Number of weights in a model folder; None when they are in PyTorch's older format.

    Args:
        folder: the model's folder.
        path: the model as the user names it, for messages.
        key: the config key that named it.

    Raises:
        FindingsError: RN304 for each file that is missing, cut off or only a pointer to the real one.
    """
    files = _weight_files(folder, path, key)
    problems: list[Finding] = []
    total = 0
    for file in files:
        try:
            total += count_in_file(file)
        except _BrokenError as error:
            problems.append(
                Finding("RN304", "error", f"{file}: {error}", "download or save the model again", path=key)
            )
    if problems:
        raise FindingsError(problems)
    return total if files else None


def _weight_files(folder: Path, path: str, key: str) -> list[Path]:
    """The files that transformers would load; empty when only the older format is there."""
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if (folder / INDEX).exists():
        return [folder / name for name in _shards(folder / INDEX, key)]
    if any((folder / name).exists() for name in PYTORCH):
        return []
    message = f"'{path}' has a config.json, but no weights: there is no {SINGLE} in {folder}"
    raise FindingsError([Finding("RN304", "error", message, "download or save the whole model", path=key)])


def _shards(index: Path, key: str) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{index} cannot be read: {error!r}"
        hint = "download or save the model again"
        raise FindingsError([Finding("RN304", "error", message, hint, path=key)]) from None


def count_in_file(file: Path) -> int:
    """Number of weights that a safetensors file declares, after checking that it is as long as it says.

    The format: 8 bytes with the header's length (little-endian), the header as JSON, then the tensors' bytes.
    Raises _BrokenError.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(len(LFS_POINTER))
            if start == LFS_POINTER:
                raise _BrokenError("is a Git LFS pointer, not the weights (run `git lfs pull`)")
            stream.seek(0)
            header, offset = _header(stream.read(8), stream)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise _BrokenError("does not exist" if missing else f"cannot be read: {error.strerror}") from None
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    expected = offset + max((entry["data_offsets"][1] for entry in tensors), default=0)
    if file.stat().st_size < expected:
        raise _BrokenError(f"is cut off: it has {file.stat().st_size} of {expected} bytes")
    return sum(math.prod(entry["shape"]) for entry in tensors)


def _header(start: bytes, stream: Any) -> tuple[dict[str, Any], int]:
    """The header behind the first 8 bytes, and where the tensors begin."""
    if len(start) < 8:
        raise _BrokenError(f"is cut off: it has {len(start)} bytes")
    (size,) = struct.unpack("<Q", start)
    if size > MAX_HEADER:
        raise _BrokenError("is not a safetensors file")
    text = stream.read(size)
    if len(text) < size:
        raise _BrokenError("is cut off within its header")
    try:
        header = json.loads(text)
    except ValueError:
        raise _BrokenError("is not a safetensors file") from None
    return header, 8 + size
