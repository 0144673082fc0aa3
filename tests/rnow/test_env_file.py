"""`.env` of the project is read by `rnow run`, and does not reach the project's code by itself."""

import asyncio
import os

from rnow.commands.run import load_env_file
from rnow_core.env.worker import RewardWorker

REWARDS = """
import os
from rnow import reward

@reward
def sees_secret(args, messages) -> float:
    return float("RNOW_TEST_SECRET" in os.environ)
"""


def test_env_file_is_loaded_but_not_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("RNOW_TEST_KEPT", "outside")
    monkeypatch.delenv("RNOW_TEST_SECRET", raising=False)
    (tmp_path / ".env").write_text('RNOW_TEST_SECRET="hidden"\nexport RNOW_TEST_KEPT=inside\n')
    (tmp_path / "rewards.py").write_text(REWARDS)
    load_env_file(tmp_path)
    try:
        assert os.environ["RNOW_TEST_SECRET"] == "hidden"
        assert os.environ["RNOW_TEST_KEPT"] == "outside"

        async def score():
            async with RewardWorker(tmp_path, tmp_path / "log") as worker:
                return await worker.score(["sees_secret"], [])

        assert asyncio.run(score()) == {"sees_secret": 0.0}
    finally:
        os.environ.pop("RNOW_TEST_SECRET", None)


def test_a_project_without_env_file_is_fine(tmp_path):
    load_env_file(tmp_path)
