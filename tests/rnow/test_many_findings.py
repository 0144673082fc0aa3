from pathlib import Path

from rnow.display.findings import SHOWN_EACH, render_findings
from rnow.display.plan import plan_table
from rnow_core.errors import Finding


def bad_rows(count, code="RN204", file="train.jsonl"):
    return [Finding(code, "error", f"bad {i}", "", file, i) for i in range(1, count + 1)]


def test_equal_findings_are_counted_beyond_a_few(tmp_path):
    findings = [*bad_rows(10_000), *bad_rows(3, "RN208"), *bad_rows(SHOWN_EACH, file="val.jsonl")]
    lines = list(render_findings(findings, tmp_path, colour=False))
    assert len(lines) == SHOWN_EACH + 1 + 3 + SHOWN_EACH
    assert lines[SHOWN_EACH] == "... and 9,980 more RN204 in train.jsonl; all of them with --json"
    assert sum("RN208" in line for line in lines) == 3


def test_findings_without_a_file_are_counted_too():
    lines = list(render_findings([Finding("RN410", "warning", "x")] * 22, Path(), colour=False))
    assert lines[-1] == "... and 2 more RN410; all of them with --json"


def test_sizes_are_shown_in_a_unit_that_says_something():
    shown = [
        line.split()[1:]
        for line in plan_table({"memory": {"a": 3 * 2**29, "b": 3 * 2**19}, "disk_free": 2048})
    ]
    assert shown == [["1.50", "GiB"], ["1.50", "MiB"], ["2.00", "KiB"]]
