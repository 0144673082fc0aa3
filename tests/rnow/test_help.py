import json
import subprocess
import sys

import pytest

from rnow import __version__

HEAVY = [
    "torch",
    "transformers",
    "peft",
    "pydantic",
    "rich",
    "jinja2",
    "yaml",
    "ruamel",
    "tokenizers",
    "asyncio",
]


def imported_by(*args):
    """The modules that a fresh `rnow ARGS` has imported when it ends."""
    code = (
        "import sys, json\nfrom rnow.guard import guarded\n"
        "guarded(sys.argv[1:])\nprint(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    return done.stdout.rsplit("\n", 2)[0], json.loads(done.stdout.strip().rsplit("\n", 1)[-1])


def test_help_imports_nothing_heavy_and_is_small():
    shown, modules = imported_by("--help")
    assert [name for name in HEAVY if name in modules] == []
    assert len(modules) < 400
    for command in ("init", "validate", "run", "test", "doctor", "schema"):
        assert f"\n  {command} " in shown


def test_schema_needs_no_torch():
    _, modules = imported_by("schema", "--field", "seed")
    assert "pydantic" in modules
    assert [name for name in ("torch", "transformers", "peft") if name in modules] == []


def test_the_help_lists_the_exit_codes(rnow):
    shown = rnow("--help").out
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "130 "):
        assert f"\n    {code}" in shown


@pytest.mark.parametrize("command", ["init", "validate", "run", "test", "doctor", "schema"])
def test_every_command_has_help_and_json(rnow, command):
    done = rnow(command, "-h")
    assert done.code == 0
    assert "--json" in done.out
    assert rnow(command, "--help").out == done.out


def test_without_a_command_the_help_is_shown(rnow):
    assert rnow().out == rnow("--help").out


def test_version(rnow):
    assert rnow("--version").out == f"rnow {__version__}\n"


def test_python_dash_m(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rnow", "--version"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, f"rnow {__version__}\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["trian"], "No such command"),
        (["rnu"], "Did you mean 'run'?"),
        (["run", "--resum"], "--resume"),
        (["run", "--name"], "--name"),
        (["run", "config.yml"], "is not KEY=VALUE"),
        (["run", "--dir", "absent"], "There is no folder absent"),
        (["validate", "a", "b"], "Only one DIR"),
        (["validate", "absent"], "There is no folder absent"),
        (["schema", "--field", "trainer.lerning_rate"], "Did you mean 'trainer.learning_rate'?"),
        (["schema", "--field", "seed.x"], "'seed' has no keys below it"),
        (["schema", "--field", "zzzzzz"], "dataset_type"),
    ],
)
def test_a_wrong_call_is_exit_2_with_a_hint(rnow, args, said):
    done = rnow(*args)
    assert done.code == 2
    assert done.out == ""
    assert said in done.err
    assert "hint:" in done.err
    as_json = rnow(args[0], "--json", *args[1:])
    assert as_json.code == 2
    assert as_json.err == ""
    error = json.loads(as_json.out)["error"]
    assert error["exit_code"] == 2
    assert said in error["message"] + error["hint"]
