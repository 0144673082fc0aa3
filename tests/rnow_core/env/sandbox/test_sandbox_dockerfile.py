"""What a Dockerfile says that its image runs."""

import textwrap

import pytest

from rnow_core.env.sandbox.dockerfile import own_command, own_health


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("FROM a\nRUN make", []),
        ('FROM a\nENTRYPOINT ["serve", "--all"]\nCMD ["--port", "80"]', ["serve", "--all", "--port", "80"]),
        ('FROM a\nCMD ["first"]\ncmd second --now', ["/bin/sh", "-c", "second --now"]),
        ('FROM a\nCMD ["ignored"]\nENTRYPOINT exec serve', ["/bin/sh", "-c", "exec serve"]),
        ('FROM a AS build\nCMD ["old"]\nFROM b\nCOPY --from=build /x /x', []),
        ('FROM a\nCMD ["serve", \\\n  "here"]', ["serve", "here"]),
    ],
)
def test_entrypoint_and_cmd_of_the_last_stage_are_one_command(text, command):
    assert own_command(text) == command


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (
            "HEALTHCHECK --interval=5s --timeout=3s CMD curl -f localhost",
            ("/bin/sh", "-c", "curl -f localhost"),
        ),
        ('HEALTHCHECK CMD ["check", "CMD x"]', ("check", "CMD x")),
        ("HEALTHCHECK --retries=2 \\\n  CMD check", ("/bin/sh", "-c", "check")),
    ],
)
def test_the_health_check_is_a_command(line, command):
    check = own_health(f"FROM a\n{line}\n")
    assert check is not None
    assert check.command == command


def test_a_health_check_can_be_switched_off():
    text = """\
        FROM a
        HEALTHCHECK CMD check
        HEALTHCHECK NONE
        """
    assert own_health(textwrap.dedent(text)) is None
    assert own_health("FROM a\nHEALTHCHECK CMD check\nFROM b\n") is None
