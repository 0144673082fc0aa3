import json
import subprocess
import sys

import pytest

from rnow_core import errors


@pytest.fixture
def command_raises(monkeypatch):
    """Let `rnow schema` raise something."""

    def install(error):
        def schema(field, as_json):
            raise error

        monkeypatch.setattr("rnow.commands.schema.schema", schema)

    return install


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.RnowError, 1),
        (errors.RunFailed, 1),
        (errors.UsageError, 2),
        (errors.EnvironmentMissing, 3),
        (errors.WouldOverwrite, 4),
        (errors.Interrupted, 130),
    ],
)
def test_each_error_has_its_exit_code_and_shows_its_fix(rnow, command_raises, kind, code):
    command_raises(kind("what happened", "what to do"))
    done = rnow("schema")
    assert (done.code, done.out) == (code, "")
    assert "what happened\n  hint: what to do\n" in done.err
    as_json = rnow("schema", "--json")
    assert (as_json.code, as_json.err) == (code, "")
    assert json.loads(as_json.out) == {
        "error": {
            "type": kind.__name__,
            "message": "what happened",
            "hint": "what to do",
            "exit_code": code,
        }
    }


def test_ctrl_c_is_130_without_a_traceback(rnow, command_raises):
    command_raises(KeyboardInterrupt())
    done = rnow("schema")
    assert done.code == 130
    assert done.err == "interrupted: stopped by the user\n"


def test_a_defect_is_one_line_and_a_file(rnow, command_raises, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command_raises(ValueError("first line\nsecond line"))
    done = rnow("schema")
    assert done.code == 1
    assert done.err.splitlines()[0] == "error: Unexpected error: ValueError: first line"
    [log] = tmp_path.glob("rnow-error-*.log")
    assert str(log) in done.err
    assert "second line" in log.read_text()
    assert "Traceback" in log.read_text()


def test_a_closed_pipe_is_quiet(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "rnow", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), said) == (0, b"")


def test_a_terminal_without_unicode_does_not_stop_the_output(tmp_path):
    code = (
        "from rnow.guard import guarded; guarded([]); from rnow.display import console; console.out('\u2501')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={"PYTHONIOENCODING": "ascii"}, cwd=tmp_path
    )
    assert done.returncode == 0
    assert done.stdout.endswith(b"?\n")
