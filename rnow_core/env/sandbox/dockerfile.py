"""What a Dockerfile says that its image runs, for places where the built image cannot be asked."""

from __future__ import annotations

from rnow_core.env.sandbox.context import instructions, words_of
from rnow_core.env.sandbox.health import HealthCheck


def own_command(dockerfile: str) -> list[str]:
    """ENTRYPOINT and CMD of the last stage as one command; what a base image says is not known here."""
    entrypoint: list[str] = []
    command: list[str] = []
    in_shell = False
    for name, rest in instructions(dockerfile):
        if name == "FROM":
            entrypoint, command, in_shell = [], [], False
        elif name == "ENTRYPOINT":
            entrypoint, in_shell = _command(rest), not rest.startswith("[")
        elif name == "CMD":
            command = _command(rest)
    return entrypoint if in_shell else [*entrypoint, *command]


def own_health(dockerfile: str) -> HealthCheck | None:
    """The HEALTHCHECK of the last stage; each run of it may take 30 s."""
    found = None
    for name, rest in instructions(dockerfile):
        if name == "FROM":
            found = None
        elif name == "HEALTHCHECK":
            _, _, command = rest.partition("CMD ")
            words = _command(command.strip()) if command else []
            found = HealthCheck.parse({"Test": ["CMD", *words] if words else ["NONE"]})
    return found


def _command(rest: str) -> list[str]:
    """The words of the JSON form; the shell form goes to a shell."""
    return words_of(rest)[1] if rest.startswith("[") else ["/bin/sh", "-c", rest]
