"""A command on a pseudo-terminal: what a person would have seen."""

import fcntl
import os
import pty
import struct
import subprocess
import termios


def on_terminal(command, cwd, *, rows=24, columns=80, **env):
    """Exit code and everything that a process writes to its terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    settings = {**os.environ, "TERM": "xterm-256color", **env}
    process = subprocess.Popen(
        command, cwd=cwd, stdin=follower, stdout=follower, stderr=follower, env=settings
    )
    os.close(follower)
    said = b""
    try:
        while chunk := os.read(leader, 4096):
            said += chunk
    except OSError:
        pass  # Linux answers EIO when the other side is closed
    os.close(leader)
    return process.wait(timeout=60), said.decode()
