import asyncio
import json

import pytest

from rnow_core.track.clock import PhaseClock
from rnow_core.track.events import Event, to_ndjson


class Time:
    """A clock that moves only when told."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def now():
    return Time()


def test_an_event_is_one_line_with_a_schema_version():
    line = to_ndjson(
        Event("step", {"step": 3, "metrics": {"teacher_kl": float("nan")}, "text": "a\nb"}, time=1.5)
    )
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "schema": 1,
        "event": "step",
        "time": 1.5,
        "step": 3,
        "metrics": {"teacher_kl": None},
        "text": "a\nb",
    }


@pytest.mark.parametrize("name", ["schema", "event", "time"])
def test_a_field_cannot_hide_the_event_itself(name):
    with pytest.raises(ValueError, match=name):
        Event("step", {name: 1})


def test_phases_and_the_rest_add_up_to_the_step(now):
    clock = PhaseClock(now)
    for phase, seconds in [("rollout", 3), ("train", 2), ("rollout", 1)]:
        with clock.phase(phase):
            now.seconds += seconds
        now.seconds += 0.5
    taken = clock.take()
    assert taken == {"time/rollout": 4, "time/train": 2, "time/step": 7.5, "time/other": 1.5}


def test_take_starts_over(now):
    clock = PhaseClock(now)
    with clock.phase("train"):
        now.seconds += 1
    clock.take()
    now.seconds += 2
    assert clock.take() == {"time/step": 2, "time/other": 2}


def test_a_phase_that_is_still_open_is_split_at_take(now):
    clock = PhaseClock(now)
    with clock.phase("rollout"):
        now.seconds += 1
        assert clock.take() == {"time/rollout": 1, "time/step": 1, "time/other": 0}
        now.seconds += 2
    assert clock.take() == {"time/rollout": 2, "time/step": 2, "time/other": 0}


def test_a_phase_ends_when_its_block_raises(now):
    clock = PhaseClock(now)

    def fail():
        with clock.phase("train"):
            now.seconds += 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    now.seconds += 4
    assert clock.take()["time/train"] == 1


def test_concurrent_phases_count_wall_time_once(now):
    clock = PhaseClock(now)

    async def score(start, seconds):
        await start.wait()
        async with clock.phase("score"):
            for _ in range(seconds):
                await asyncio.sleep(0)

    async def main():
        start = asyncio.Event()
        tasks = [asyncio.create_task(score(start, 5)) for _ in range(8)]
        async with clock.phase("rollout"):
            start.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            now.seconds += 3
            await asyncio.gather(*tasks)
        now.seconds += 1

    asyncio.run(main())
    assert clock.take() == {"time/rollout": 3, "time/score": 3, "time/step": 4, "time/other": 1}
