"""The runner as one program text that any Python >= 3.8 takes on stdin: nothing is mounted or installed."""

from __future__ import annotations

import functools
from pathlib import Path

BOOTSTRAP = """import sys
sys.path[:] = filter(None, sys.path)
pipe, text = open(0, "rb", 0, closefd=False), b""
size = int(pipe.readline())
while len(text) < size:
    text += pipe.read(size - len(text)) or sys.exit("the runner did not arrive whole")
exec(compile(text, "<rnow-runner>", "exec"))"""
"""What `python3 -u -c` is given; the program follows on stdin behind its length in bytes and a newline. Unbuffered, so
that what follows the program stays in the pipe; and a file of the folder where the process stands must not take the
place of a module that the runner imports."""

_FIRST = "importer"
_MODULES = ("docstring", "hints", "values", "schema", "toolkit", "reward", "guard", "main")


def python_command(*python: str) -> list[str]:
    """The command that makes a Python a runner: `python_command("python3")`."""
    return [*python, "-u", "-c", BOOTSTRAP]


def program(*, local: bool, memory: int | None = None) -> bytes:
    """What a fresh process is sent first. local: a process on this machine, which ends with this one and leaves
    nothing behind; memory: bytes that it may allocate, None = no limit.
    """
    options = {"local": local, "memory": memory}
    text = f"{_source(_FIRST)}\n\nstart({_modules()!r}, {options!r})\n".encode()
    return b"%d\n%s" % (len(text), text)


@functools.cache
def _modules() -> dict[str, str]:
    return {name: _source(name) for name in _MODULES}


@functools.cache
def _source(name: str) -> str:
    return (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
