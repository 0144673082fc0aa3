"""The import direction and the size limits of the sources, read from their syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    ["rnow_core", "rnow_core.errors", "rnow_core.types", "rnow_core.stop"],
    ["rnow_core.config"],
    ["rnow_core.data", "rnow_core.env", "rnow_core.models", "rnow_core.algo", "rnow_core.track"],
    ["rnow_core.rollout"],
    ["rnow_core.train"],
    ["rnow_core.build"],
    ["rnow_core.preflight"],
    ["rnow_core.jobs"],
    ["rnow"],
]
"""A part imports itself and the rows above its own. The parts of the first row may import one another."""

TENSOR_LIBRARIES = {"torch", "transformers", "peft"}
WITH_TENSORS = ("rnow_core.models", "rnow_core.algo")
WITH_OUTPUT = ("rnow.display", "rnow_core.env.worker_main")
PRINTERS = {"rich", "typer", "click"}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MEDIAN_FUNCTION_LINES = 300, 60, 12

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("rnow", "rnow_core")
    for path in sorted((ROOT / package).rglob("*.py"))
    if "_bundled" not in path.parts
}
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in SOURCES.items()}


def below(name, parts):
    """Whether a module is one of these parts or lies inside one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def part_of(name):
    """The row number and the part that a module belongs to."""
    matches = [(row, part) for row, parts in enumerate(ROWS) for part in parts if below(name, [part])]
    row, part = max(matches, key=lambda match: len(match[1]))
    assert part != "rnow_core" or name == "rnow_core", f"{name} is in no row of the table"
    return row, part


def imports(tree, module):
    """(line, absolute module name) of every import, wherever it stands; for `from a import b` also a.b."""
    package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{source}.{alias.name}" for alias in node.names]
            inner = [name for name in names if name in SOURCES]
            yield from ((node.lineno, name) for name in inner or [source])


def test_every_module_belongs_to_a_row():
    assert [name for name in SOURCES if part_of(name) is None] == []
    assert len(SOURCES) > 20


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_only_the_rows_above_it(module):
    row, part = part_of(module)
    wrong = []
    for line, name in imports(TREES[module], module):
        if not below(name, ["rnow", "rnow_core"]):
            continue
        other_row, other = part_of(name)
        if other_row > row or (other_row == row and other != part and row != 0):
            wrong.append(f"{SOURCES[module]}:{line}: {part} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("module", SOURCES)
def test_tensor_libraries_stay_in_models_and_algo(module):
    used = {name.split(".")[0] for _, name in imports(TREES[module], module)} & TENSOR_LIBRARIES
    assert not used or below(module, WITH_TENSORS)


@pytest.mark.parametrize("module", SOURCES)
def test_only_the_display_writes_to_the_terminal(module):
    wrong = [
        f"{SOURCES[module]}:{node.lineno}"
        for node in ast.walk(TREES[module])
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
        or (
            isinstance(node, ast.Attribute)
            and node.attr in ("write", "writelines")
            and isinstance(node.value, ast.Attribute)
            and node.value.attr in ("stdout", "stderr")
        )
    ]
    assert not wrong or below(module, WITH_OUTPUT)
    if below(module, ["rnow_core"]):
        used = {name.split(".")[0] for _, name in imports(TREES[module], module)}
        assert used & PRINTERS == set()


def function_sizes(module):
    """(name, lines) of every function of a module."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("module", SOURCES)
def test_files_and_functions_are_short(module):
    assert len(SOURCES[module].read_text().splitlines()) <= MAX_FILE_LINES
    assert [
        f"{name}: {lines} lines" for name, lines in function_sizes(module) if lines > MAX_FUNCTION_LINES
    ] == []


def test_the_median_function_is_short():
    sizes = sorted(lines for module in SOURCES for _, lines in function_sizes(module))
    assert sizes[len(sizes) // 2] <= MEDIAN_FUNCTION_LINES
