"""The line and the summary of `rnow generate` on a real pseudo-terminal, and in all widths."""

import re
import sys

import pytest
from teacher_server import Fault, teacher
from terminal import on_terminal

from rnow.display.generate import progress_line, show_summary
from rnow_core.track.events import Event

ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([a-zA-Z])")


def screen(said, columns):
    """The lines that are left on a terminal: it knows returns, the erased rest of a line, and wrapping."""
    lines, column, place = [""], 0, 0
    while place < len(said):
        escape = ESCAPE.match(said, place)
        if escape:
            assert escape[2] in "mK", escape[0]
            if escape[2] == "K":
                lines[-1] = lines[-1][:column]
            place = escape.end()
            continue
        character, place = said[place], place + 1
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append("")
        else:
            if column == columns:
                lines.append("")
                column = 0
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    return lines


def faults(prompt, turn, attempt):
    if prompt == "refused":
        return Fault(finish="content_filter")
    if prompt == "slowed" and attempt == 1:
        return Fault(status=429, headers={"retry-after": "1"})
    return Fault(status=500) if prompt == "tried" and attempt == 1 else None


def test_the_live_line_ends_as_one_line_above_the_summary(tmp_path):
    columns = 80
    (tmp_path / "prompts.txt").write_text("refused\nslowed\ntried\none\ntwo\nthree\n")
    command = [sys.executable, "-m", "rnow", "generate", "prompts.txt", "-t", "none", "-c", "2"]
    with teacher(faults, delay=0.4, cost=0.5) as server:
        server_options = ["--base-url", server.url, "--key-env", "none"]
        code, said = on_terminal([*command, *server_options], tmp_path, columns=columns)
    assert code == 0, said
    assert said.count("\r\x1b[K") > 1
    line, *summary = screen(said, columns)
    assert re.fullmatch(r"done 5 of 6  rejected 1  in flight 0.*90.*\$3\.00.*(throttled|wait) \d\S*.*", line)
    assert summary.pop() == ""
    told = dict(text.split(maxsplit=1) for text in summary)
    assert told["train"] == "5 rows in train.jsonl"
    assert told["rejected"] == "1 rows in rejected.jsonl: refused 1"
    assert told["tokens"] == "60 read, 30 written"
    assert told["cost"] == "$3.0000"
    assert {"requests", "time"} <= told.keys()


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (79, "98200/100000  rej 1234  in flight 20/25  12.3M tok  $123.46  1:02:42  wait 123s"),
        (
            139,
            "done 98,200 of 100,000  rejected 1,234  in flight 20 (limit 25)  tokens 12,300,000  $123.4567"
            "  1:02:42 left  throttled 2:03  retries 17",
        ),
    ],
)
def test_every_figure_of_a_large_generation_fits(width, shown):
    fields = {"total": 100_000, "done": 98_200, "rejected": 1_234, "in_flight": 20, "limit": 25}
    fields |= {"tokens_in": 10**7, "tokens_out": 2_300_000, "cost": 123.4567, "left_s": 3762.0}
    fields |= {"throttled_s": 123.4, "retries": 17, "message": ""}
    assert progress_line(Event("progress", fields), width) == shown
    assert len(shown) <= width


def test_a_summary_says_what_it_knows_and_lists_the_rest(capsys):
    forecast = {"prompts": 1980, "tokens_read": 19_800, "tokens_written": 9_900, "seconds": 3723.0}
    summary = {"cost": 0.0, "seconds": 41.9, "anything": {"new": 3}}
    show_summary({**summary, "forecast": {**forecast, "dollars": 1.5}}, as_json=False)
    show_summary({"forecast": {**forecast, "dollars": None}}, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "  cost      $0.0000",
        "  time      0:42",
        "  anything  new 3",
        "  forecast  1,980 more prompts: 19,800 tokens read, 9,900 written, $1.5000, 1:02:03",
        "  forecast  1,980 more prompts: 19,800 tokens read, 9,900 written, price unknown (--price), 1:02:03",
    ]
