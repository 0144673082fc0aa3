"""The first process of a container: runs the image's own command, and stays when that has ended.

Sent as text to Python 3.8 or newer; sh is not in every image, Python is in every image that can run tools. As process
1 it also collects the exit codes of whatever nobody else waits for.
"""

from __future__ import annotations

import os
import sys
import time


def main(command: list[str]) -> None:
    """Run the command (it may be empty), then sleep for ever."""
    child = 0
    if command:
        try:
            child = os.posix_spawnp(command[0], command, os.environ)
        except OSError as error:
            _say(f"the image's command `{command[0]}` cannot be run: {error}")
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            time.sleep(0.5)
            continue
        if pid == child:
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            _say(f"the image's command ended with exit code {code}")


def _say(text: str) -> None:
    os.write(2, f"rnow: {text}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
