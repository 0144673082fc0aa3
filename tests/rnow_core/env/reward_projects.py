"""What the tests of the reward worker share: a worker of a project made on the spot, and messages for it."""

import asyncio

import pytest

from rnow_core.env.call import RewardFailure
from rnow_core.env.worker import RewardWorker

HEAD = """
    import asyncio, os, re, signal, sys, threading, time
    from rnow import reward, RewardArgs, get_response
"""


def reply(text):
    return [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]


def with_worker(folder, use, **options):
    """Run `await use(worker)` with a worker of this project."""

    async def main():
        async with RewardWorker(folder, folder / "logs" / "rewards.log", **options) as worker:
            return await asyncio.wait_for(use(worker), 60)

    return asyncio.run(main())


def failure(folder, name, **options):
    async def use(worker):
        with pytest.raises(RewardFailure) as caught:
            await worker.score([name], reply("x"))
        assert caught.value.reward == name
        return caught.value.message

    return with_worker(folder, use, **options)
