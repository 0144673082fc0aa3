"""Modules from memory: the runner's own, and the project's Python files.

Python 3.8, standard library only. The program that is sent to a Python process begins with this file.
"""

# Without pathlib: importing it takes as long as the rest of the runner.
# ruff: noqa: PTH118, PTH122
from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
from typing import Any

_OWN = "<rnow-runner>"


class MemoryImporter:
    """Finds modules in a table of sources, before sys.path. `project`: module name -> path of the file."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[str, str, bool]] = {}
        self.project: dict[str, str] = {}

    def add_package(self, name: str, modules: dict[str, str]) -> None:
        """A package of the runner's own: module name -> source."""
        self._sources[name] = ("", f"{_OWN}/__init__.py", True)
        for module, source in modules.items():
            self._sources[f"{name}.{module}"] = (source, f"{_OWN}/{module}.py", False)

    def add_project(self, files: dict[str, str], root: str) -> None:
        """The project's files (name -> source) as top-level modules that stand in the folder `root`."""
        for file, source in files.items():
            name, ending = os.path.splitext(file)
            if ending == ".py" and name.isidentifier():
                self.project[name] = os.path.join(root, file)
                self._sources[name] = (source, self.project[name], False)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The import system's question."""
        if name not in self._sources:
            return None
        _, file, is_package = self._sources[name]
        spec = importlib.machinery.ModuleSpec(name, self, origin=file, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        return spec

    def create_module(self, spec: Any) -> None:
        """The default kind of module."""

    def exec_module(self, module: Any) -> None:
        """Run the module's source."""
        source, file, _ = self._sources[module.__name__]
        exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)

    def get_source(self, name: str) -> str:
        """The text of a module, for tracebacks and inspect."""
        return self._sources[name][0]


def start(modules: dict[str, str], options: dict[str, Any]) -> None:
    """Run the runner: `modules` are the other files of this folder. Returns when the host is gone."""
    importer = MemoryImporter()
    importer.add_package("_rnow_runner", modules)
    sys.meta_path.insert(0, importer)
    importlib.import_module("_rnow_runner.main").main(importer, options)
