"""`make demo`: the whole product once, the way a user runs it, and a table of what came out.

Usage: python scripts/demo.py DIR
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

GOAL = 0.9
"""The student must end at this share of the teacher's held-out accuracy."""

SAMPLING_ERROR = 0.06
"""Two samplings of 512 replies differ by less than this, three standard deviations at an accuracy of 0.9 and above."""

RNOW = str(Path(sysconfig.get_path("scripts")) / "rnow")
CHECK = Path(__file__).with_name("check_adapter.py")


def run(*command: str, cwd: Path | None = None) -> None:
    """Echo a command and run it; its failure ends the demo with its exit code."""
    shown = " ".join(
        "rnow" if part == RNOW else "python" if part == sys.executable else part for part in command
    )
    print(f"\n$ {shown}", flush=True)
    code = subprocess.call(command, cwd=cwd)
    if code:
        sys.exit(code)


def main() -> None:
    """Scaffold, prepare, validate, run, check the adapter, print the table."""
    if len(sys.argv) != 2:
        sys.exit("Usage: python scripts/demo.py DIR")
    started = time.perf_counter()
    project = Path(sys.argv[1])
    run(RNOW, "init", "quickstart", str(project))
    run(sys.executable, "prepare.py", cwd=project)
    run(RNOW, "validate", cwd=project)
    run(RNOW, "run", cwd=project)
    total = time.perf_counter() - started
    summary = json.loads(sorted(project.glob("runs/*/summary.json"))[-1].read_text())
    reloaded = accuracy_in_fresh_process(project, summary["checkpoint"])
    show(summary, total, reloaded)
    sys.exit(verdict(summary, reloaded))


def accuracy_in_fresh_process(project: Path, checkpoint: str) -> float:
    """Held-out accuracy with the adapter loaded by transformers and peft alone."""
    command = [sys.executable, str(CHECK), "student", str((project / checkpoint).resolve()), "val.jsonl"]
    answer = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        sys.exit(f"FAILED: {CHECK.name} could not load the adapter")
    return float(json.loads(answer.stdout)["accuracy"])


def show(summary: dict[str, Any], total: float, reloaded: float) -> None:
    """The table."""
    table = Table(title="\nOn-policy distillation, from the teacher's logprobs alone")
    for heading in ("", "student before", "student after", "teacher"):
        table.add_column(heading, justify="left" if not heading else "right")
    accuracies = (f"{summary[name]:.1%}" for name in ("student_before", "student_after", "teacher"))
    table.add_row("held-out accuracy", *accuracies)
    kl = (f"{summary[name]:.3f}" for name in ("teacher_kl_before", "teacher_kl_after"))
    table.add_row("teacher_kl, nats a token", *kl, "0")
    table.add_row("accuracy, adapter loaded by peft", "", f"{reloaded:.1%}", "")
    table.add_row("seconds", f"run {summary['seconds']:.0f}", f"in all {total:.0f}", "")
    Console().print(table)


def verdict(summary: dict[str, Any], reloaded: float) -> int:
    """0 when the claim holds, else 1 with the reason."""
    share = summary["student_after"] / summary["teacher"]
    if share < GOAL:
        print(
            f"FAILED: the student reached {share:.0%} of the teacher's accuracy, expected at least {GOAL:.0%}"
        )
        return 1
    if abs(reloaded - summary["student_after"]) > SAMPLING_ERROR:
        print(f"FAILED: the adapter loaded by peft is right {reloaded:.1%} of the time")
        return 1
    print(f"The student reached {share:.0%} of the teacher's accuracy.")
    return 0


if __name__ == "__main__":
    main()
