"""A trainer rank above 0: `python -P -m rnow_core.jobs.rank`, or `rnow run` where torchrun started it.

It needs torchrun's environment variables and nothing else: what to load comes from rank 0.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from rnow_core.build.learner import make_follower
from rnow_core.errors import RnowError
from rnow_core.models.follower import follow_commands
from rnow_core.models.rank_channel import LostRank
from rnow_core.models.rank_processes import LOST_RANK_EXIT, join_ranks
from rnow_core.models.ranks import STOP


def follow(ignored: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> None:
    """Take part in rank 0's run until it ends; called in the main thread, once in a process.

    Signals that end a run are left to rank 0, which needs this rank to finish its step; torchrun sends them to all.

    Raises:
        LostRank: rank 0, or another one, is gone.
        RnowError: this rank could not do its part; rank 0 was told where it could be.
    """
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    ranks = join_ranks()
    try:
        name, arguments = ranks.next_command()
        if name != STOP:
            follow_commands(make_follower(ranks, *arguments), ranks)
    finally:
        asyncio.run(ranks.close())


def main() -> int:
    """Follow, with errors in this rank's log; the exit code says whether it was this rank that failed."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        follow(ignored=[signal.SIGINT])
    except LostRank as error:
        logging.error(error.message)
        return LOST_RANK_EXIT
    except RnowError as error:
        logging.error("%s (%s)", error.message, error.hint)
        return error.exit_code
    except Exception:
        logging.exception("this rank failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
