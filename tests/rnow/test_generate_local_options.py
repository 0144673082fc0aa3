"""`rnow generate --local` as it is typed: which options it takes, and what it says when it cannot."""

import pytest

COMMAND = ("generate", "prompts.txt", "-t", "none")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--local"], 2, "--local needs the model to run"),
        (["--local", "-m", "./m", "--base-url", "http://host/v1"], 2, "--base-url is for a server"),
        (
            ["--local", "-m", "./m", "--price", "1,2", "--max-cost", "3"],
            2,
            "--price, --max-cost is for a server",
        ),
        (["--local", "-m", "./m", "--provider", "A"], 2, "--provider is for a server"),
        (["--engine", "hf", "--key-env", "none"], 2, "add --local"),
        (["--local", "-m", "./m"], 1, "there is no folder './m'"),
    ],
)
def test_a_mistake_has_one_message_and_its_exit_code(rnow, tmp_path, args, code, said):
    (tmp_path / "work" / "prompts.txt").write_text("one\n")
    done = rnow(*COMMAND, *args)
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err
