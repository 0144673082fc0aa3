"""A base image made from this machine's busybox and Python: small, and made without a registry."""

import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

IMAGE = "rnow-test/python:1"
NO_PYTHON = "rnow-test/busybox:1"
_LEFT_OUT = {
    *("test", "tests", "idlelib", "ensurepip", "tkinter", "turtledemo", "lib2to3", "pydoc_data", "distutils"),
    *(
        "site-packages",
        "dist-packages",
        "__pycache__",
        "unittest",
        "multiprocessing",
        "xml",
        "venv",
        "wsgiref",
    ),
}
_VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def make_archives(folder):
    """(with Python, without Python): two root file systems as tar archives."""
    small, big = folder / "busybox.tar", folder / "python.tar"
    with tarfile.open(small, "w") as archive:
        _add_busybox(archive)
    with tarfile.open(big, "w") as archive:
        _add_busybox(archive)
        _add_python(archive)
    return big, small


def import_images(command, folder):
    """Import both into the engine that `command` (a list of words) calls, unless they are there."""
    missing = subprocess.run([*command, "image", "inspect", IMAGE, NO_PYTHON], capture_output=True).returncode
    if not missing:
        return
    settings = ["ENV PATH=/usr/local/bin:/bin", "ENV LD_LIBRARY_PATH=/usr/local/lib"]
    changes = [word for setting in settings for word in ("--change", setting)]
    for archive, name in zip(make_archives(folder), (IMAGE, NO_PYTHON), strict=True):
        subprocess.run([*command, "import", *changes, str(archive), name], check=True, capture_output=True)
        archive.unlink()


def _add(archive, source, target):
    archive.add(os.path.realpath(source), str(target).lstrip("/"), recursive=False)


def _add_busybox(archive):
    _add(archive, "/bin/busybox", "bin/busybox")
    listed = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout
    for name in set(listed.split()) - {"busybox"}:
        link = tarfile.TarInfo(f"bin/{name}")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
    for name, mode in (("tmp", 0o1777), ("root", 0o700), ("etc", 0o755)):
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode = tarfile.DIRTYPE, mode
        archive.addfile(folder)


def _add_python(archive):
    program = Path(sys.base_exec_prefix, "bin", _VERSION)
    library = Path(sysconfig.get_path("stdlib"))
    needed = set(_libraries(program))
    _add(archive, program, "usr/local/bin/python3")
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith("config-")]
        for path in (Path(folder, name) for name in files if not name.endswith((".a", ".pyc"))):
            _add(archive, path, Path("usr/local/lib", _VERSION, path.relative_to(library)))
            needed |= set(_libraries(path)) if path.suffix == ".so" else set()
    for path in sorted(needed):
        own = path.startswith(sys.base_prefix) and not path.startswith(("/lib", "/usr/lib"))
        _add(archive, path, Path("usr/local/lib", Path(path).name) if own else path)


def _libraries(binary):
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True).stdout
    return [word for word in listed.split() if word.startswith("/")]
