"""How trainer ranks are started."""

import os
import sys
from pathlib import Path

import pytest

from rnow_core.errors import RunFailed, UsageError
from rnow_core.models.guardian import descendants
from rnow_core.models.rank_processes import is_follower, rank_environment, start_ranks
from rnow_core.models.ranks import OneRank


def test_a_follower_that_cannot_start_is_an_error_with_its_last_lines(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit('no such library')")
    with pytest.raises(RunFailed, match=r"trainer rank 1 ended with exit code 1(?s:.*)no such library"):
        start_ranks(2, log_folder=tmp_path, command=command)
    left = [Path(f"/proc/{pid}/cmdline") for pid in descendants(os.getpid())]
    assert not any(b"no such library" in path.read_bytes() for path in left if path.exists())


def test_a_follower_sees_its_own_gpu_only() -> None:
    assert rank_environment({}, 1, 2, 5, [2, 3])["CUDA_VISIBLE_DEVICES"] == "3"
    visible = {"CUDA_VISIBLE_DEVICES": "4,6,7"}
    assert rank_environment(visible, 1, 2, 5, [0, 2])["CUDA_VISIBLE_DEVICES"] == "7"
    with pytest.raises(UsageError, match="trainer rank 1 should use GPU 3"):
        rank_environment(visible, 1, 2, 5, [0, 3])


def test_one_rank_starts_nothing(tmp_path: Path) -> None:
    assert type(start_ranks(1, log_folder=tmp_path / "logs")) is OneRank
    assert not (tmp_path / "logs").exists()


def test_another_number_of_ranks_than_torchrun_started_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = {
        "RANK": "3",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert is_follower()
    with pytest.raises(UsageError, match="started 8 ranks, 4 on this node, but this run trains on 2"):
        start_ranks(2, log_folder=tmp_path)
    monkeypatch.setenv("RANK", "0")
    assert not is_follower()
