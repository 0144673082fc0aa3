import re

import pytest
import terminal

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def on_terminal(scripted, tmp_path):
    """Run a scripted `rnow run` on a pseudo-terminal: exit code and everything it wrote there."""

    def run(scenario, rows=40, cols=100, **env):
        return terminal.on_terminal(scripted(scenario, "run"), tmp_path, rows=rows, columns=cols, **env)

    return run


def last_view(said):
    """The lines of the last drawn table, without escape codes."""
    text = ESCAPES.sub("", said).replace("\r", "")
    return text[text.rindex("  step ") :].splitlines()


def test_the_table_shows_the_last_steps_and_the_progress(on_terminal):
    code, said = on_terminal("complete")
    assert code == 0
    view = last_view(said)
    assert view[0].split() == ["step", "loss", "teacher_kl", "reward", "tokens/s", "seconds"]
    rows = [line.split() for line in view[1:11]]
    assert [int(row[0]) for row in rows] == list(range(5, 15))
    assert rows[-1] == ["14", "0.07143", "0.03571", "0.25", "1,234", "2"]
    assert view[11].endswith("14/14")
    assert view[12:15] == ["finished", "  student_after  0.91", "  seconds        12"]


def test_notes_stand_above_the_table_once(on_terminal):
    _, said = on_terminal("complete")
    text = ESCAPES.sub("", said)
    for note in (
        "run run-001: 14 steps",
        "warning: the disk is nearly full",
        "eval at step 7",
        "checkpoint at",
    ):
        assert text.count(note) == 1
        assert text.index(note) < text.rindex("  step ")


def test_the_cursor_comes_back_however_the_run_ends(on_terminal):
    for scenario in ("complete", "failing", "crashing"):
        _, said = on_terminal(scenario)
        assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")


def test_an_error_follows_the_table(on_terminal):
    code, said = on_terminal("failing")
    assert code == 1
    assert ESCAPES.sub("", said).rstrip().endswith("hint: check teacher.path")


def test_no_color_is_honoured(on_terminal):
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    assert colour.search(on_terminal("complete")[1])
    assert not colour.search(on_terminal("complete", NO_COLOR="1")[1])
    assert not colour.search(on_terminal("failing", NO_COLOR="1")[1])


def test_a_dumb_terminal_gets_plain_lines(on_terminal):
    _, said = on_terminal("complete", TERM="dumb")
    assert "\x1b" not in said
    assert "step 14/14" in said


def test_a_small_terminal_is_enough(on_terminal):
    code, said = on_terminal("complete", rows=8, cols=30)
    assert code == 0
    assert "finished" in said
