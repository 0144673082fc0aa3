"""`metrics.jsonl`: one JSON object a line, appended; a line left half written is cut off.

Each line is handed to the kernel at once, so that SIGKILL loses nothing; `sync` forces them to the disk,
which a checkpoint needs before it names an offset in this file. Standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rnow_core.track.diskerrors import disk_errors
from rnow_core.track.jsonable import dumps

Row = dict[str, Any]


class MetricsFile:
    """The one writer of a metrics file."""

    def __init__(self, path: Path) -> None:
        """Open for appending; a torn last line is cut off.

        Raises:
            RunFailed: the file cannot be written.
        """
        self.path = path
        with disk_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self.truncate_to(_end_of_rows(path))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row; non-finite floats become null. What cannot be written whole is not written at all.

        Raises:
            RunFailed: the disk is full.
        """
        line = f"{dumps(row)}\n".encode()
        before = self.offset
        with disk_errors(self.path, lambda: len(line)):
            try:
                _write_all(self._descriptor, line)
            except OSError:
                self.truncate_to(before)
                raise

    @property
    def offset(self) -> int:
        """Bytes written so far: the argument of `truncate_to` that brings this moment back."""
        return os.fstat(self._descriptor).st_size

    def sync(self) -> None:
        """Force every row to the disk."""
        with disk_errors(self.path):
            os.fsync(self._descriptor)

    def truncate_to(self, offset: int) -> None:
        """Drop everything behind a byte offset."""
        if offset < self.offset:
            with disk_errors(self.path):
                os.ftruncate(self._descriptor, offset)

    def truncate_after(self, step: int) -> None:
        """Drop the first row of a later step and everything behind it: what a resume will do again."""
        self.truncate_to(sum(size for size, _row in _rows_until(self.path, step)))

    def close(self) -> None:
        """Force the rows to the disk and close the file."""
        self.sync()
        os.close(self._descriptor)


def read_metrics(path: Path) -> list[Row]:
    """Every complete row, also while another process is writing; an empty list when there is no file."""
    return [row for _size, row in _complete_rows(path)] if path.exists() else []


def _write_all(descriptor: int, data: bytes) -> None:
    """A disk that is nearly full takes a part and says so only at the next call."""
    while data:
        data = data[os.write(descriptor, data) :]


def _complete_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(bytes of the line, row) until the end or the first line that is not a whole JSON object."""
    with path.open("rb") as file:
        for line in file:
            row = _parse(line)
            if row is None:
                return
            yield len(line), row


def _parse(line: bytes) -> Row | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _end_of_rows(path: Path) -> int:
    return sum(size for size, _row in _complete_rows(path))


def _rows_until(path: Path, step: int) -> Iterator[tuple[int, Row]]:
    for size, row in _complete_rows(path):
        if row.get("step", 0) > step:
            return
        yield size, row
