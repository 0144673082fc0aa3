"""Writing that fails because of the disk, told to the user: which path, what is missing, how to go on."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rnow_core.errors import RunFailed

_FIXES = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space in your quota",
    errno.EFBIG: "raise the file size limit (`ulimit -f unlimited`)",
    errno.EROFS: "the disk is mounted read-only: make it writable",
    errno.EACCES: "make the folder writable for this user",
    errno.EPERM: "make the folder writable for this user",
    errno.EIO: "the disk reports an input/output error: look into that",
}
_OS_ERROR_IN_TEXT = re.compile(r"\(os error (\d+)\)")
_CUT_ARCHIVE = re.compile(r"PytorchStreamWriter failed|inline_container\.cc|iostream error")


class DiskFailed(RunFailed):
    """The disk does not take what is written. `go_on` is how the work is continued when that is mended."""

    def __init__(self, message: str, fix: str, go_on: str = "`rnow run --resume`") -> None:
        super().__init__(message, f"{fix}, then continue with {go_on}")
        self.fix = fix

    def for_command(self, go_on: str) -> DiskFailed:
        """The same failure of a command that is continued in another way."""
        return DiskFailed(self.message, self.fix, go_on)


@contextmanager
def disk_errors(path: Path, needed: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn a failure of the disk inside the block into DiskFailed; every other exception passes unchanged.

    Args:
        path: what was being written, for the message.
        needed: gives its size in bytes, as far as known when the write failed.

    Raises:
        DiskFailed: the disk is full, read-only, over quota, not permitted or broken.
    """
    try:
        yield
    except Exception as error:
        number = disk_errno(error)
        if number is None:
            raise
        raise DiskFailed(_message(path, number, needed() if needed else None), _FIXES[number]) from error


def disk_errno(error: BaseException) -> int | None:
    """The errno behind an exception if the disk is to blame, else None.

    Rust (safetensors) and C++ (torch.save) writers raise no OSError, so their texts are read as well.
    """
    if isinstance(error, OSError):
        return error.errno if error.errno in _FIXES else None
    match = _OS_ERROR_IN_TEXT.search(str(error))
    if match and int(match.group(1)) in _FIXES:
        return int(match.group(1))
    if isinstance(error, RuntimeError) and _CUT_ARCHIVE.search(str(error)):
        return errno.ENOSPC
    return None


def _message(path: Path, number: int, needed: int | None) -> str:
    numbers = [f"needs at least {human_bytes(needed)}"] if needed is not None else []
    free = _free_bytes(path)
    if free is not None:
        numbers.append(f"{human_bytes(free)} free")
    detail = f" ({', '.join(numbers)})" if numbers else ""
    return f"{path}: cannot be written: {os.strerror(number)}{detail}. What was saved before is intact."


def _free_bytes(path: Path) -> int | None:
    """Bytes that this user may still write where `path` is, or None when nothing of the path exists."""
    for folder in (path, *path.parents):
        if folder.exists():
            return shutil.disk_usage(folder).free
    return None


def human_bytes(count: int) -> str:
    """`1.5 GB`, decimal units as disks are sold."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
