"""Loading a tools.py in a real process: what is found, and what is said of mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest
from tool_projects import HEAD, findings, inspected, write


def test_tools_in_order_with_place_and_options(tmp_path):
    folder = write(
        tmp_path / "p",
        """
        from __future__ import annotations
        from helper import Mode
        from rnow import tool, ToolArgs as Known
        import rnow.core

        print("noise")

        @tool
        def later(point: Point | None, mode: Mode, k: Known) -> dict | None:
            "Uses what stands below."

        @rnow.core.tool(sandbox=True, timeout=2.5, network=False)
        async def browse(url: str) -> str:
            "Browse."

        from dataclasses import dataclass
        @dataclass
        class Point:
            x: int
        """,
        helper="from typing import Literal\nMode = Literal['a']\n",
    )
    found = inspected(folder)
    assert list(found) == ["later", "browse"]
    later, browse = found.values()
    assert (later.file, later.line, later.sandbox, later.network) == ("tools.py", 9, False, True)
    assert list(later.parameters["properties"]) == ["point", "mode"]
    assert later.parameters["properties"]["point"]["properties"] == {"x": {"type": "integer"}}
    assert (browse.sandbox, browse.timeout, browse.network, browse.is_async) == (True, 2.5, False, True)
    assert "helper" not in sys.modules
    assert browse.schema()["function"]["name"] == "browse"


def test_no_file_is_no_tools(tmp_path):
    assert inspected(tmp_path) == {}


@pytest.mark.parametrize(
    ("definition", "problem", "fix"),
    [
        ("@tool\ndef f(x): 'Do.'", "`x` has no type hint", "`x: str`"),
        ("@tool\ndef f(*args): 'Do.'", "cannot fill `*args`", "give every parameter"),
        ("@tool\ndef f(**more: int): 'Do.'", "cannot fill `**more", "give every parameter"),
        ("@tool\ndef f(x: int, /): 'Do.'", "positional-only", "remove the `/`"),
        ("@tool\ndef f(x: int): ...", "no description", "docstring"),
        ("@tool\ndef f(x: int):\n    '''\n    Args:\n        x: it\n    '''", "no description", "docstring"),
        ("@tool\ndef f(x: bytes): 'Do.'", "`x`: `bytes` has no JSON form", "use str, int"),
        ("@tool\ndef f(x: 'Nowhere'): 'Do.'", "NameError: name 'Nowhere'", "import or define"),
        ("@tool\ndef f() -> int:\n    'Do.'\n    yield 1", "it yields", "return one value"),
        ("class A:\n  @tool\n  def f(self): 'Do.'", "it is a method", "out of its class"),
        ("@tool(timeout=0)\ndef f(): 'Do.'", "timeout is 0", "above 0"),
        ("@tool(timeout=True)\ndef f(): 'Do.'", "timeout is True", "above 0"),
        ("@tool(network=False)\ndef f(): 'Do.'", "network=False without sandbox", "only a sandbox"),
    ],
)
def test_a_bad_definition_has_place_and_fix(tmp_path, definition, problem, fix):
    (only,) = findings(write(tmp_path / "p", f"from rnow import tool\n\n{definition}\n"))
    assert (only.code, only.severity, only.file) == ("RN235", "error", "tools.py")
    assert only.line == 3 + definition.startswith("class")
    assert only.message.startswith("@tool on `f`: ")
    assert problem in only.message
    assert fix in only.hint


def test_all_bad_definitions_at_once(tmp_path):
    source = "from rnow import tool\n@tool\ndef f(x): 'A.'\n@tool\ndef g(y): 'B.'\n"
    assert [found.line for found in findings(write(tmp_path / "p", source))] == [2, 4]


def test_two_tools_of_one_name(tmp_path):
    folder = write(
        tmp_path / "p",
        "from rnow import tool\nimport more\n\n@tool\ndef f(): 'A.'\n",
        more="from rnow import tool\n@tool\ndef f(): 'B.'\n",
    )
    (only,) = findings(folder)
    assert (only.file, only.line) == ("tools.py", 4)
    assert "exists at more.py:2" in only.message


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("x = 1\ndef broken(:\n", 2, "SyntaxError"),
        ("import json\n\nimport not_there\n", 3, "ModuleNotFoundError: No module named 'not_there'"),
        ("def f():\n    return 1 / 0\n\nf()\n", 2, "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
        ("from rnow import tool\n\ntool(3)\n", 3, "@tool expects a function, got int"),
        ("from rnow import llm_judge\n", 1, "llm_judge is not available"),
        ("import os\nos._exit(3)\n", None, "ended its process (exit code 3)"),
    ],
)
def test_a_file_that_cannot_be_loaded(tmp_path, source, line, message):
    (only,) = findings(write(tmp_path / "p", source))
    assert (only.code, only.file, only.line) == ("RN234", "tools.py", line)
    assert message in only.message


def test_a_missing_package_is_named_with_where_to_install_it(tmp_path):
    (only,) = findings(write(tmp_path / "p", "import not_there.inner\n"))
    assert only.hint == "install `not_there` where rnow is installed"


def test_a_file_of_the_project_may_have_a_name_of_the_standard_library(tmp_path):
    folder = write(tmp_path / "p", HEAD + "\n    @tool\n    def f(x: int): 'Do.'", json="1/0", typing="1/0")
    assert list(inspected(folder)) == ["f"]


def old_pythons():
    home = Path.home() / ".pyenv" / "versions"
    return sorted(
        path for version in ("3.8*", "3.9*") for path in home.glob(f"{version}/bin/python3") if path.exists()
    )


@pytest.mark.skipif(not old_pythons(), reason="no older Python on this machine")
def test_older_pythons(tmp_path):
    good = """
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import Dict, List, Literal, Optional
        from rnow.core import tool, ToolArgs, reward, RewardArgs

        @dataclass
        class Point:
            x: int

        @tool(sandbox=True)
        async def f(a: Optional[List[Point]], m: Literal["a", "b"], d: Dict[str, int], args: ToolArgs, n: int = 1):
            "Do."

        @reward(sandbox=True, precondition=True)
        def r(args: RewardArgs, messages: list) -> float:
            return 1.0
    """
    here = inspected(write(tmp_path / "good", good))
    union = write(tmp_path / "union", "from rnow import tool\n\n@tool\ndef f(x: 'int | None'): 'Do.'\n")
    plain = write(tmp_path / "plain", "from rnow import tool\n\n@tool\ndef f(x: int | None): 'Do.'\n")
    for python in map(str, old_pythons()):
        assert inspected(tmp_path / "good", python=[python]) == here
        for folder, code, line in ((union, "RN235", 3), (plain, "RN234", 4)):
            (only,) = findings(folder, python=[python])
            assert (only.code, only.line) == (code, line)
            assert "write Optional[...]" in only.hint


def test_the_module_works_in_plain_python():
    code = """
from rnow import tool, ToolArgs
import rnow.core
assert rnow.core.tool is tool

@tool(timeout=3)
def double(x: int, args: ToolArgs) -> int:
    return 2 * x

print(double(4, ToolArgs(metadata={"a": 1})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "8\n"
