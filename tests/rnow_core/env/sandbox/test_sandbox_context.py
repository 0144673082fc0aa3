"""What a Dockerfile's build is sent."""

from pathlib import Path

import pytest

from rnow_core.env.sandbox.context import content_hash, context_files, copied_sources, copy_context
from rnow_core.errors import RnowError


def test_sources_are_read_from_every_form_of_copy():
    text = r"""
    # COPY commented /x
    FROM a AS one
    COPY plain.txt "with space.txt" /x/
    copy --chown=1:1 lower.txt /x
    COPY ["json one", "json two", "/x"]
    COPY --from=one /etc/passwd /x
    ADD https://example.com/file git@host:x/y.git local.tar /x
    COPY first.txt \
      # a comment in between
      second.txt \
      /x
    COPY <<EOF /x/inline
    COPY not_an_instruction /x
    EOF
    RUN <<END cat
    COPY neither /x
    END
    COPY last.txt /x
    """
    expected = "plain.txt|with space.txt|lower.txt|json one|json two|local.tar|first.txt|second.txt|last.txt"
    assert copied_sources(text) == expected.split("|")


def make(folder, text):
    dockerfile = folder / "Dockerfile.x"
    dockerfile.write_text(f"FROM a\n{text}\n")
    for name in (
        "app/main.py",
        "app/__pycache__/main.pyc",
        "app/.env",
        ".env",
        ".env.local",
        "runs/a/big.bin",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return dockerfile


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("RUN true", []),
        ("COPY app /srv", ["app/main.py"]),
        ("COPY ./app/*.py /srv/", ["app/main.py"]),
        ("COPY . /srv", ["Dockerfile.x", "app/main.py"]),
        ("COPY ../../app /srv", ["app/main.py"]),
    ],
)
def test_only_named_files_are_sent_and_never_secrets_or_runs(tmp_path, text, sent):
    files = context_files(tmp_path, make(tmp_path, text))
    assert files == [Path(name) for name in sent]
    (tmp_path / "context").mkdir()
    copy_context(tmp_path, files, tmp_path / "context")
    copied = [path for path in (tmp_path / "context").rglob("*") if path.is_file()]
    assert sorted(path.relative_to(tmp_path / "context") for path in copied) == files


def test_variables_in_copy_are_refused(tmp_path):
    with pytest.raises(RnowError, match="variables"):
        context_files(tmp_path, make(tmp_path, "COPY $NAME /srv"))


def test_the_hash_follows_everything_that_is_sent(tmp_path):
    dockerfile = make(tmp_path, "COPY app /srv")

    def now():
        return content_hash(tmp_path, dockerfile, context_files(tmp_path, dockerfile))

    main = tmp_path / "app/main.py"
    seen = [now()]
    (tmp_path / "other.txt").write_text("not sent")
    assert now() == seen[0]
    main.write_text("changed")
    seen.append(now())
    main.chmod(0o755)
    seen.append(now())
    main.rename(tmp_path / "app/renamed.py")
    seen.append(now())
    dockerfile.write_text(dockerfile.read_text() + "RUN true\n")
    seen.append(now())
    assert len(set(seen)) == len(seen)
