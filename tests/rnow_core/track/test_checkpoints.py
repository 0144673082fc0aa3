import hashlib
import random
import time

import pytest

from rnow_core.errors import RunFailed
from rnow_core.track.atomic import clean_leftovers
from rnow_core.track.checkpoints import Checkpoints

SAVER = """
    import hashlib, sys
    from pathlib import Path
    from rnow_core.track.atomic import clean_leftovers
    from rnow_core.track.checkpoints import Checkpoints
    folder = Path(sys.argv[1])
    clean_leftovers(folder)
    checkpoints = Checkpoints(folder)
    last = checkpoints.latest()
    step = last.step + 1 if last else 0
    print("ready", flush=True)
    while True:
        parts = [bytes([step % 256, part]) * 50_000 for part in range(4)]
        def write(path):
            for number, data in enumerate(parts):
                (path / f"part{number}").write_bytes(data)
        checkpoints.save(step, write, {"digest": hashlib.sha256(b"".join(parts)).hexdigest()})
        step += 1
"""


def write_number(number):
    return lambda folder: (folder / "weights").write_text(str(number))


def digest_of(path):
    parts = sorted(path.glob("part*"))
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def test_saved_checkpoints_come_back_by_step(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (0, 50, 100):
        checkpoints.save(step, write_number(step), {"cursor": step * 4, "metrics_offset": step * 10})
    latest = checkpoints.latest()
    assert [item.step for item in checkpoints.all()] == [0, 50, 100]
    assert latest.path.name == "step_000100"
    assert latest.state["cursor"] == 400
    assert (checkpoints.load(50).path / "weights").read_text() == "50"
    assert checkpoints.load(50).state["metrics_offset"] == 500


def test_order_is_by_number_beyond_six_digits(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (999_999, 1_000_000):
        checkpoints.save(step, write_number(step), {})
    assert checkpoints.latest().step == 1_000_000


def test_nothing_there_is_none_and_a_missing_step_lists_the_others(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.latest() is None
    checkpoints.save(2, write_number(2), {})
    with pytest.raises(RunFailed, match="step 3") as caught:
        checkpoints.load(3)
    assert "2" in caught.value.hint


def test_incomplete_folders_are_ignored(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, write_number(1), {})
    (tmp_path / "step_000002").mkdir()
    (tmp_path / "step_000003").mkdir()
    (tmp_path / "step_000003" / "state.json").write_text('{"step": 3')
    (tmp_path / ".tmp-step_000004").mkdir()
    (tmp_path / "step_copy").mkdir()
    (tmp_path / "step_000005").write_text("a file")
    assert [item.step for item in checkpoints.all()] == [1]


def test_a_complete_checkpoint_is_never_written_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, write_number("first"), {"cursor": 1})
    again = checkpoints.save(1, write_number("second"), {"cursor": 2})
    assert again.state["cursor"] == 1
    assert (again.path / "weights").read_text() == "first"


def test_a_failing_save_leaves_the_previous_one_and_no_trace(tmp_path, names):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, write_number(1), {})

    def write(folder):
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, write, {})
    assert checkpoints.latest().step == 1
    assert names(tmp_path) == ["step_000001"]


def test_a_full_disk_names_the_size_and_keeps_the_previous_one(tmp_path, names, python):
    code = """
    import resource, sys
    from pathlib import Path
    from rnow_core.errors import RunFailed
    from rnow_core.track.checkpoints import Checkpoints
    checkpoints = Checkpoints(Path(sys.argv[1]))
    def write(folder):
        for part in range(3):
            (folder / f"part{part}").write_bytes(bytes(100_000))
    checkpoints.save(1, write, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        checkpoints.save(2, write, {})
    except RunFailed as error:
        print(error.message)
    """
    out, err = python(code, tmp_path).communicate()
    assert "step_000002: cannot be written" in out, err
    assert "300.0 kB" in out
    assert Checkpoints(tmp_path).latest().step == 1
    assert names(tmp_path) == ["step_000001"]


def test_sigkill_at_random_moments_never_shows_half_a_checkpoint(tmp_path, python):
    rng = random.Random(1)
    checkpoints = Checkpoints(tmp_path)
    killed_during_a_save = 0
    steps_before = -1
    for _ in range(12):
        saver = python(SAVER, tmp_path)
        assert saver.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.05))
        saver.kill()
        saver.wait()
        killed_during_a_save += bool(list(tmp_path.glob(".tmp-*")))
        found = checkpoints.all()
        assert [item.step for item in found] == list(range(len(found)))
        assert all(digest_of(item.path) == item.state["digest"] for item in found)
        assert len(found) - 1 >= steps_before
        steps_before = len(found) - 1
    assert killed_during_a_save > 0
    assert steps_before >= 0
    clean_leftovers(tmp_path)
    assert not list(tmp_path.glob(".tmp-*"))
