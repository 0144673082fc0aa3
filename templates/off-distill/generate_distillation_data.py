"""Let a teacher answer prompts with the project's tools, and write the conversations as training data.

    python generate_distillation_data.py prompts.jsonl --model openai/gpt-4o-mini --tools tools.py --output train.jsonl

All options are those of `rnow generate`, which does the work; --help lists them. What this script adds is a look at
the environment first, so that nothing is bought from a teacher whose tools cannot work.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

NO_RNOW = """\
This Python ({python}) does not have rnow, which does the work. Add it with

    uv pip install -r requirements.txt

and run the same command again. (Without uv: pip install -r requirements.txt)"""
MISSING = 3  # rnow's exit code for something that the environment lacks


def main(arguments: Sequence[str]) -> int:
    """Check the environment, then become `rnow generate`; it returns only when something is missing."""
    if find_spec("rnow") is None or find_spec("rnow_core") is None:
        print(NO_RNOW.format(python=sys.executable), file=sys.stderr)
        return MISSING
    if lacking := missing_for(tools_file(arguments)):
        print(f"{lacking}\n(Without tools: --tools none)", file=sys.stderr)
        return MISSING
    sys.stdout.flush()
    return os.execv(sys.executable, [sys.executable, "-P", "-m", "rnow", "generate", *arguments])


def tools_file(arguments: Sequence[str]) -> Path | None:
    """The tools.py of this command; None when no tool will be called: without tools, for --help and --show."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-t", "--tools", default="tools.py")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--show")
    options, _ = parser.parse_known_args(arguments)
    return None if options.help or options.show or options.tools == "none" else Path(options.tools)


def missing_for(tools: Path | None) -> str:
    """What the file's own function `missing` says, if it has one; what is wrong with the file itself rnow says."""
    with contextlib.suppress(Exception):
        if tools is not None and (check := runpy.run_path(str(tools)).get("missing")):
            return str(check())
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
