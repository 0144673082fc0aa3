"""The program that is sent: old enough in syntax, standard library only."""

import ast
import sys
from pathlib import Path

import pytest

from rnow_core.env.runner import bundle

FOLDER = Path(bundle.__file__).parent
SENT = [path for path in sorted(FOLDER.glob("*.py")) if path.stem not in ("__init__", "bundle")]


def test_everything_of_the_folder_is_sent():
    size, _, text = bundle.program(local=False).partition(b"\n")
    assert int(size) == len(text)
    ast.parse(text, feature_version=(3, 8))
    for path in SENT:
        assert repr(path.read_text())[1:200].encode() in text or path.stem == "importer"


@pytest.mark.parametrize("path", SENT, ids=lambda path: path.stem)
def test_syntax_of_python_3_8_and_the_standard_library_only(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names
        if isinstance(node, ast.ImportFrom):
            assert node.level == 1 or node.module.split(".")[0] in sys.stdlib_module_names
    newer = {
        "removeprefix",
        "removesuffix",
        "cache",
        "pairwise",
        "TaskGroup",
        "ExceptionGroup",
        "is_relative_to",
    }
    assert newer.isdisjoint(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
