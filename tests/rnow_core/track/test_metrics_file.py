import json

import pytest

from rnow_core.track.metrics import MetricsFile, read_metrics


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def fill(path, steps):
    metrics = MetricsFile(path)
    for step in steps:
        metrics.append({"step": step, "teacher_kl": step / 10})
    metrics.close()


def steps(path):
    return [row["step"] for row in read_metrics(path)]


def test_rows_come_back_in_order(path):
    fill(path, [0, 1, 1, 2])
    assert read_metrics(path)[3] == {"step": 2, "teacher_kl": 0.2}
    fill(path, [3])
    assert steps(path) == [0, 1, 1, 2, 3]


def test_no_file_is_no_rows(path):
    assert read_metrics(path) == []


def test_non_finite_values_are_null(path):
    metrics = MetricsFile(path)
    metrics.append({"step": 1, "a": float("nan"), "b": float("-inf")})
    assert path.read_text() == '{"step":1,"a":null,"b":null}\n'


@pytest.mark.parametrize("torn", ['{"step": 3, "teach', '{"step": 3}', "\x00\x00\n", "[1]\n"])
def test_a_torn_last_line_is_ignored_and_cut_before_the_next_row(path, torn):
    fill(path, [1, 2])
    with path.open("a") as file:
        file.write(torn)
    assert steps(path) == [1, 2]
    fill(path, [3])
    assert steps(path) == [1, 2, 3]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_truncate_after_drops_later_steps_only(path):
    fill(path, [0, 1, 2, 2, 3, 4])
    metrics = MetricsFile(path)
    metrics.truncate_after(2)
    metrics.append({"step": 3, "again": True})
    metrics.close()
    assert steps(path) == [0, 1, 2, 2, 3]
    assert read_metrics(path)[-1]["again"] is True


def test_an_offset_brings_the_file_back_byte_for_byte(path):
    metrics = MetricsFile(path)
    metrics.append({"step": 1})
    offset, content = metrics.offset, path.read_bytes()
    metrics.append({"step": 1, "eval/reward": 0.5})
    metrics.truncate_to(offset)
    assert path.read_bytes() == content
    metrics.truncate_to(offset + 1000)
    assert path.read_bytes() == content


def test_rows_are_visible_to_others_at_once_and_survive_sigkill(path, python):
    code = """
    import sys, time
    from pathlib import Path
    from rnow_core.track.metrics import MetricsFile
    metrics = MetricsFile(Path(sys.argv[1]))
    for step in range(20):
        metrics.append({"step": step})
    print("written", flush=True)
    time.sleep(60)
    """
    writer = python(code, path)
    assert writer.stdout.readline() == "written\n"
    assert steps(path) == list(range(20))
    writer.kill()
    writer.wait()
    assert steps(path) == list(range(20))


def test_a_full_disk_names_the_file_and_keeps_whole_rows(path, python):
    code = """
    import resource, sys
    from pathlib import Path
    from rnow_core.errors import RunFailed
    from rnow_core.track.metrics import MetricsFile
    metrics = MetricsFile(Path(sys.argv[1]))
    metrics.append({"step": 1, "pad": "x" * 600})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        metrics.append({"step": 2, "pad": "x" * 600})
    except RunFailed as error:
        print(error.message)
    """
    out, err = python(code, path).communicate()
    assert f"{path}: cannot be written" in out, err
    assert steps(path) == [1]
    assert path.read_bytes().endswith(b"}\n")
