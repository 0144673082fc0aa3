"""The build context of a project's Dockerfile: the files that its COPY and ADD name, and nothing else.

A project folder holds runs, checkpoints and `.env`; sending it whole would be slow and would leak. `COPY . .` sends
everything but EXCLUDED. The hash covers the Dockerfile and every byte, path and execute bit of what is sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from rnow_core.errors import RnowError

EXCLUDED = {".git", ".venv", "venv", "runs", "__pycache__", "node_modules", ".pytest_cache", ".mypy_cache"}
MAX_BYTES = 1 << 30
_HEREDOC = re.compile(r"<<-?[\"']?(\w+)[\"']?")


def copied_sources(dockerfile: str) -> list[str]:
    """What COPY and ADD take from the context, as written; other stages, URLs and inline files are left out."""
    sources: list[str] = []
    for instruction, rest in instructions(dockerfile):
        if instruction not in ("COPY", "ADD"):
            continue
        flags, words = words_of(rest)
        if any(flag.startswith("--from=") for flag in flags) or not words:
            continue
        local = [word for word in words[:-1] if "://" not in word and not word.startswith(("<<", "git@"))]
        sources += [word for word in local if word not in sources]
    return sources


def context_files(project: Path, dockerfile: Path) -> list[Path]:
    """The files to send, relative to the project, sorted. RnowError when one is missing or may not be sent."""
    found: set[Path] = set()
    for source in copied_sources(dockerfile.read_text()):
        if "$" in source:
            message = f"{dockerfile.name} copies `{source}`, and variables are not resolved here"
            raise RnowError(message, "write the file's name")
        matches = set(_matches(project, source))
        if not matches:
            message = f"{dockerfile.name} copies `{source}`, which is not in the project"
            raise RnowError(
                message, f"add it to {project}, or change the line (.env, runs and .git are never sent)"
            )
        found |= matches
    if found and (project / ".dockerignore").is_file():
        found.add(Path(".dockerignore"))
    _require_small(project, found, dockerfile)
    return sorted(found)


def content_hash(project: Path, dockerfile: Path, files: Iterable[Path]) -> str:
    """Sixteen hexadecimal digits that change with anything the build can see of the project."""
    digest = hashlib.sha256(dockerfile.read_bytes())
    for file in files:
        path = project / file
        content = bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        executable = path.lstat().st_mode & 0o111 != 0
        digest.update(f"\0{file.as_posix()}\0{executable}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def copy_context(project: Path, files: Iterable[Path], folder: Path) -> None:
    """Copy the files to an empty folder."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project / file, folder / file, follow_symlinks=False)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """(name in capitals, rest) of each instruction: comments, continued lines and inline files taken care of."""
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        whole = line
        while whole.rstrip().endswith("\\"):
            following = next(lines, "")
            if following.lstrip().startswith("#"):
                continue
            whole = whole.rstrip()[:-1] + " " + following
        name, _, rest = whole.strip().partition(" ")
        for end in _HEREDOC.findall(rest) if name.upper() in ("COPY", "ADD", "RUN") else ():
            while next(lines, end).strip() != end:
                pass
        yield name.upper(), rest.strip()


def words_of(rest: str) -> tuple[list[str], list[str]]:
    """Flags and operands of an instruction, in its shell form or its JSON form."""
    flags = []
    while rest.startswith("--"):
        flag, _, rest = rest.partition(" ")
        flags.append(flag)
        rest = rest.lstrip()
    if rest.startswith("["):
        try:
            return flags, [str(word) for word in json.loads(rest)]
        except ValueError:
            return flags, []
    try:
        return flags, shlex.split(rest)
    except ValueError:
        return flags, []


def _matches(project: Path, source: str) -> Iterator[Path]:
    pattern = os.path.normpath(PurePosixPath("/", source)).lstrip("/")
    starts = [project] if not pattern else sorted(project.glob(pattern))
    for start in starts:
        if _excluded(start.relative_to(project)):
            continue
        if not start.is_dir():
            yield start.relative_to(project)
            continue
        for folder, folders, files in os.walk(start):
            folders[:] = [name for name in folders if not _excluded(Path(name))]
            paths = [Path(folder, name).relative_to(project) for name in files]
            yield from (path for path in paths if not _excluded(path))


def _excluded(path: Path) -> bool:
    return any(part in EXCLUDED or part == ".env" or part.startswith(".env.") for part in path.parts)


def _require_small(project: Path, files: Iterable[Path], dockerfile: Path) -> None:
    sizes = {file: (project / file).lstat().st_size for file in files}
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(sizes, key=lambda file: sizes[file])
        message = f"{dockerfile.name} copies {sum(sizes.values()) >> 20} MiB from the project; at most 1024 are sent"
        raise RnowError(
            message, f"the largest file is {largest}; name what the image needs instead of a folder"
        )
