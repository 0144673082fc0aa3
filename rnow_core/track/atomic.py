"""Files and folders that are complete or invisible, whatever moment the process dies at.

Everything is written under a temporary sibling name (`.tmp-...`), forced to the disk and renamed; the rename
is forced to the disk too. A temporary left by a killed process is removed when its run is opened again.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rnow_core.track.diskerrors import disk_errors
from rnow_core.track.jsonable import dumps

TMP_PREFIX = ".tmp-"
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def write_json_atomic(path: Path, data: Any) -> None:
    """Replace `path` by `data` as indented JSON; see `write_text_atomic`."""
    write_text_atomic(path, dumps(data, indent=2) + "\n")


def write_text_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8): readers see the old file or the new one, never a part.

    Raises:
        RunFailed: the disk did not take it; the old file is still there.
    """
    write_chunks_atomic(path, [text])


def write_chunks_atomic(path: Path, chunks: Iterable[str]) -> None:
    """`write_text_atomic` for text that is made piece by piece, so that it is never whole in memory."""
    tmp = temporary(path)
    written = 0
    with removed_on_error(tmp), disk_errors(path, lambda: written):
        with tmp.open("wb") as file:
            for chunk in chunks:
                data = chunk.encode()
                written += len(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
        fsync_path(path.parent)


def write_folder_atomic(final: Path, fill: Callable[[Path], None], expected: int = 0) -> None:
    """Make the folder `final` by calling `fill(tmp)`; it appears when all of it is on the disk.

    Args:
        final: must not exist.
        fill: writes into an existing empty folder.
        expected: bytes that it will probably take, for the message when the disk is full.

    Raises:
        RunFailed: the disk did not take it; nothing of it is left behind.
    """
    tmp = temporary(final)
    _remove(tmp)
    with removed_on_error(tmp), disk_errors(final, lambda: max(expected, folder_bytes(tmp))):
        tmp.mkdir(parents=True)
        fill(tmp)
        commit_folder(tmp, final)


def link_atomic(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, relative to its own folder; an earlier one is replaced in one step.

    Nothing happens on a disk that has no links, as some network and removable ones.

    Raises:
        RunFailed: the disk did not take it.
    """
    tmp = temporary(link)
    with removed_on_error(tmp), disk_errors(link):
        tmp.unlink(missing_ok=True)
        try:
            tmp.symlink_to(os.path.relpath(target, link.parent))
        except OSError as error:
            if error.errno in NO_LINKS:
                return
            raise
        tmp.replace(link)
        fsync_path(link.parent)


def commit_folder(tmp: Path, final: Path) -> None:
    """Force all that is under `tmp` to the disk, then rename it to `final`, which must not exist."""
    for root, _folders, names in os.walk(tmp):
        for name in names:
            fsync_path(Path(root, name))
        fsync_path(Path(root))
    tmp.rename(final)
    fsync_path(final.parent)


def clean_leftovers(folder: Path) -> list[Path]:
    """Remove the temporaries that a killed process left directly in `folder`; returns their paths.

    Only for the one process that may write there (`RunFolder` holds the lock).
    """
    leftovers = sorted(folder.glob(f"{TMP_PREFIX}*"))
    for path in leftovers:
        _remove(path)
    return leftovers


def temporary(path: Path) -> Path:
    """The sibling under which `path` is written first: same folder, so that the rename cannot cross disks."""
    return path.with_name(f"{TMP_PREFIX}{path.name}")


def fsync_path(path: Path) -> None:
    """Force a file's contents, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def removed_on_error(tmp: Path) -> Iterator[None]:
    """Remove `tmp` when the block fails, Ctrl-C included: on a full disk that also gives its space back."""
    try:
        yield
    except BaseException:
        _remove(tmp)
        raise


def folder_bytes(folder: Path) -> int:
    """Bytes in the files under `folder`; 0 when it does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
