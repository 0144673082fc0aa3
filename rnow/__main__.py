"""The entry point: the console script `rnow` and `python -m rnow`."""

from __future__ import annotations

import sys

from rnow.guard import guarded


def main() -> int:
    """Run the command line of this process and return its exit code."""
    return guarded(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
