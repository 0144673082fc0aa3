"""An append-only journal that makes long, costly work restartable: what is in it is never paid for again.

One JSON object a line. `{"id": ..., "kind": ...}` begins each; a line with kind `done` ends the work on an id and
carries the row that belongs into one of the outputs. Rows reach the outputs behind their `done` line, and a
`written` line says how far: at the next start the rows behind the last one are compared with the outputs, so that
each is there exactly once, whatever moment the process died at.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from rnow_core.errors import RunFailed
from rnow_core.track.atomic import fsync_path
from rnow_core.track.diskerrors import disk_errors
from rnow_core.track.jsonable import dumps
from rnow_core.track.lock import FileLock

GROUP_S = 0.02
"""Records wait so long for others, so that one fsync serves them all."""

_HEAD = b'{"id":"'
_ROW = b',"row":"'
"""Cannot stand inside a JSON string: its quotes would be escaped."""
_WRITTEN = "-"


class Journal:
    """The journal of one output file, held by one process. Use with `async with`.

    Args:
        output: the file that the work is for; journal and lock lie beside it.
        outputs: name -> file of everything that rows may go to.

    Raises:
        WouldOverwrite: another process works on this output.
    """

    def __init__(self, output: Path, outputs: Mapping[str, Path]) -> None:
        self.path = output.with_name(f"{output.name}.journal")
        self.outputs = dict(outputs)
        self._lock = FileLock(output.with_name(f".{output.name}.lock"))
        try:
            self.fresh = not self.path.exists()
            """True when there was no journal."""
            self.unfinished: dict[str, list[bytes]] = {}
            self.done: dict[str, dict[str, Any]] = {}
            self._empty = {name for name, path in self.outputs.items() if not _has_content(path)}
            self._files = {name: _open_whole(path) for name, path in self.outputs.items()}
            self._file = _open_whole(self.path)
            self._load()
        except BaseException:
            self._lock.release()
            raise
        self._lines: list[bytes] = []
        self._rows: list[tuple[str, str]] = []
        self._flushed: asyncio.Future[None] | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = False

    async def __aenter__(self) -> Journal:
        self._flusher = asyncio.create_task(self._flush_groups())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._closing = True
        self._wake.set()
        try:
            if self._flusher is not None:
                await self._flusher
        finally:
            for file in (self._file, *self._files.values()):
                file.close()
            self._lock.release()

    def past(self, work: str) -> list[dict[str, Any]]:
        """The records of unfinished work, in order."""
        return [json.loads(line) for line in self.unfinished.get(work, ())]

    async def append(self, work: str, kind: str, **fields: Any) -> None:
        """Add a record; returns when it is on the disk. RunFailed when the disk does not take it."""
        await self._add(dumps({"id": work, "kind": kind, **fields}))

    async def finish(self, work: str, output: str, row: Mapping[str, Any], **fields: Any) -> None:
        """End the work: its row goes to an output. Returns when the record, which has the row too, is on the disk."""
        text = dumps(row)
        self._rows.append((output, text))
        await self._add(dumps({"id": work, "kind": "done", "output": output, **fields, "row": text}))

    async def _add(self, line: str) -> None:
        if self._flusher is None or self._flusher.done():
            raise RunFailed(f"{self.path} is closed")
        self._lines.append(line.encode("utf-8", "replace") + b"\n")
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        self._wake.set()
        await asyncio.shield(self._flushed)

    async def _flush_groups(self) -> None:
        while not (self._closing and not self._lines):
            await self._wake.wait()
            await asyncio.sleep(0 if self._closing else GROUP_S)
            self._wake.clear()
            if not self._lines:
                continue
            lines, rows, flushed = self._lines, self._rows, self._flushed
            self._lines, self._rows, self._flushed = [], [], None
            try:
                await asyncio.to_thread(self._write, lines, rows)
            except Exception as error:
                self._fail(flushed, error)
                return
            if flushed is not None and not flushed.done():
                flushed.set_result(None)

    def _fail(self, flushed: asyncio.Future[None] | None, error: Exception) -> None:
        """Whoever waits learns of it; nothing is written any more."""
        for future in (flushed, self._flushed):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()

    def _write(self, lines: list[bytes], rows: list[tuple[str, str]]) -> None:
        with disk_errors(self.path):
            _append(self._file, b"".join(lines))
        self._write_rows(rows)

    def _write_rows(self, rows: list[tuple[str, str]]) -> None:
        """Append rows to their outputs, then say so in the journal; that line may be lost."""
        if not rows:
            return
        for name, path in self.outputs.items():
            text = "".join(f"{row}\n" for output, row in rows if output == name)
            if text:
                with disk_errors(path):
                    _append(self._files[name], text.encode("utf-8", "replace"))
        sizes = {name: path.stat().st_size for name, path in self.outputs.items()}
        with disk_errors(self.path):
            _write(self._file, dumps({"id": _WRITTEN, "kind": "written", "sizes": sizes}).encode() + b"\n")

    def _load(self) -> None:
        """Read the journal; complete the outputs."""
        waiting: list[bytes] = []
        sizes: dict[str, int] = {}
        for work, line in _records(self.path):
            if work == _WRITTEN:
                waiting.clear()
                sizes = json.loads(line)["sizes"]
            elif line.startswith(b'"kind":"done"', len(_HEAD) + len(work) + 2):
                self.unfinished.pop(work, None)
                self.done[work] = json.loads(line[: line.index(_ROW)] + b"}")
                waiting.append(line)
            else:
                self.unfinished.setdefault(work, []).append(line)
        rows = [(record["output"], record["row"]) for record in map(json.loads, waiting)]
        gone = {name for name in self._empty if sizes.get(name)}
        rows = [row for row in rows if row[0] not in gone] + self._rows_of(gone)
        self._write_rows(self._missing(rows, sizes))

    def _rows_of(self, outputs: set[str]) -> list[tuple[str, str]]:
        """All rows that went to these outputs, which somebody has removed."""
        if not outputs:
            return []
        wanted = {work for work, head in self.done.items() if head["output"] in outputs}
        lines = (line for work, line in _records(self.path) if work in wanted and _ROW in line)
        return [(record["output"], record["row"]) for record in map(json.loads, lines)]

    def _missing(self, rows: list[tuple[str, str]], sizes: Mapping[str, int]) -> list[tuple[str, str]]:
        """Those rows that their outputs do not have behind these sizes, as often as they are missing."""
        if not rows:
            return []
        there = {name: _line_hashes(path, sizes.get(name, 0)) for name, path in self.outputs.items()}
        missing = []
        for name, row in rows:
            digest = sha256(row.encode()).digest()
            if there[name][digest]:
                there[name][digest] -= 1
            else:
                missing.append((name, row))
        return missing


def _records(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            end = line.find(b'"', len(_HEAD))
            if not line.startswith(_HEAD) or end < 0:
                hint = "move the file away to go on from the output alone"
                raise RunFailed(f"{path}:{number}: this is no line of a journal", hint)
            yield line[len(_HEAD) : end].decode(), line


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _line_hashes(path: Path, start: int) -> Counter[bytes]:
    """The lines from a position on; all of them when the file has become shorter than that."""
    with path.open("rb") as lines:
        lines.seek(start if start <= path.stat().st_size else 0)
        return Counter(sha256(line.rstrip(b"\n")).digest() for line in lines)


def _open_whole(path: Path) -> FileIO:
    """Open for appending, without the torn last line that a kill in the middle of a write left."""
    with disk_errors(path):
        file = FileIO(path, "ab")
        with path.open("rb+") as content:
            size = content.seek(0, os.SEEK_END)
            kept = _end_of_last_line(content, size)
            content.seek(kept)
            if kept != size and _is_object(content.read()):
                content.write(b"\n")
            else:
                content.truncate(kept)
        fsync_path(path.parent)
        return file


def _is_object(line: bytes) -> bool:
    """Whether a last line without its end is complete: somebody else's editor may have saved it so."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _end_of_last_line(content: BinaryIO, size: int, chunk: int = 2**16) -> int:
    end = size
    while end > 0:
        start = max(0, end - chunk)
        content.seek(start)
        found = content.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _append(file: FileIO, data: bytes) -> None:
    """All of it on the disk, or the file as it was."""
    before = os.fstat(file.fileno()).st_size
    try:
        _write(file, data)
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), before)
        raise


def _write(file: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
