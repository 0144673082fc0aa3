import errno
import json
import os

import pytest

from rnow_core.errors import RunFailed
from rnow_core.track.atomic import (
    clean_leftovers,
    write_chunks_atomic,
    write_folder_atomic,
    write_json_atomic,
    write_text_atomic,
)

SMALL_DISK = """
    import resource, sys
    from pathlib import Path
    from rnow_core.errors import RunFailed
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
"""


def test_replaces_the_whole_file_and_leaves_nothing_else(tmp_path, names):
    path = tmp_path / "status.json"
    write_json_atomic(path, {"step": 1, "long": "x" * 100})
    write_json_atomic(path, {"step": 2})
    assert json.loads(path.read_text()) == {"step": 2}
    assert names(tmp_path) == ["status.json"]


def test_a_failure_in_the_middle_keeps_the_old_file(tmp_path, names):
    path = tmp_path / "a.jsonl"
    write_text_atomic(path, "old")

    def chunks():
        yield "new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_chunks_atomic(path, chunks())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.jsonl"]


def test_a_folder_is_invisible_until_it_is_complete(tmp_path, names):
    final = tmp_path / "step_000001"
    seen = []

    def fill(folder):
        (folder / "a").write_text("1")
        seen.append(final.exists())
        (folder / "sub").mkdir()
        (folder / "sub" / "b").write_text("2")

    write_folder_atomic(final, fill)
    assert seen == [False]
    assert (final / "sub" / "b").read_text() == "2"
    assert names(tmp_path) == ["step_000001"]


def test_a_bug_while_filling_is_not_called_a_full_disk(tmp_path, names):
    def fill(folder):
        (folder / "a").write_text("1")
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        write_folder_atomic(tmp_path / "x", fill)
    assert names(tmp_path) == []


def test_a_full_disk_names_path_bytes_and_fix_and_keeps_the_old_file(tmp_path, names, python):
    path = tmp_path / "summary.json"
    path.write_text("old")
    code = """
    from rnow_core.track.atomic import write_text_atomic
    try:
        write_text_atomic(Path(sys.argv[1]), "x" * 50_000)
    except RunFailed as error:
        print(error.message); print(error.hint)
    """
    out, err = python(SMALL_DISK + code, path).communicate()
    message, hint = out.splitlines()
    assert str(path) in message, err
    assert "50.0 kB" in message
    assert "free" in message
    assert os.strerror(errno.EFBIG) in message
    assert "ulimit" in hint
    assert "--resume" in hint
    assert path.read_text() == "old"
    assert names(tmp_path) == ["summary.json"]


@pytest.mark.parametrize(
    "write",
    [
        "import torch; torch.save({'a': torch.zeros(99_999)}, folder / 'optimizer.pt')",
        "import torch; from safetensors.torch import save_file; "
        "save_file({'a': torch.zeros(99_999)}, folder / 'adapter.safetensors')",
        "(folder / 'a.bin').write_bytes(bytes(99_999))",
    ],
    ids=["torch", "safetensors", "python"],
)
def test_every_kind_of_writer_reports_a_full_disk_in_the_same_way(tmp_path, names, python, write):
    """torch and safetensors raise their own exceptions, not OSError."""
    code = f"""
    from rnow_core.track.atomic import write_folder_atomic
    def fill(folder):
        {write}
    try:
        write_folder_atomic(Path(sys.argv[1]), fill)
    except RunFailed as error:
        print(error.message); print(error.hint)
    """
    out, err = python(SMALL_DISK + code, tmp_path / "step_000007").communicate()
    assert "step_000007: cannot be written" in out, err
    assert "--resume" in out
    assert names(tmp_path) == []


def test_a_folder_without_permission_is_a_clear_error(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(RunFailed, match="Permission denied") as caught:
        write_text_atomic(tmp_path / "status.json", "{}")
    assert "writable" in caught.value.hint


def test_other_os_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text_atomic(tmp_path / "missing" / "a", "")


def test_leftovers_are_removed_and_nothing_else(tmp_path, names):
    (tmp_path / ".tmp-step_000003").mkdir()
    (tmp_path / ".tmp-step_000003" / "a").write_text("half")
    (tmp_path / ".tmp-status.json").write_text("{")
    (tmp_path / "step_000002").mkdir()
    assert len(clean_leftovers(tmp_path)) == 2
    assert names(tmp_path) == ["step_000002"]
