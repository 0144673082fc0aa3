"""Repetition against a plain count, and which ids are a reply."""

import math
import random

import pytest

from rnow_core.track.repetition import repetition, sampled_spans


def counted(replies):
    """Of all places where an 8-token sequence starts, those that an equal one started before, in the same reply."""
    repeated = total = 0
    for reply in replies:
        grams = [tuple(reply[i : i + 8]) for i in range(len(reply) - 7)]
        repeated += sum(gram in grams[:place] for place, gram in enumerate(grams))
        total += len(grams)
    return repeated / total if total else math.nan


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 151_936])
def test_equals_a_plain_count(vocabulary):
    draw = random.Random(vocabulary)
    replies = [[draw.randrange(vocabulary) for _ in range(draw.randrange(90))] for _ in range(12)]
    assert repetition(replies) == pytest.approx(counted(replies), abs=1e-12)
    assert repetition([*replies, replies[0]]) == pytest.approx(counted([*replies, replies[0]]), abs=1e-12)


def test_a_loop_is_near_one_and_short_replies_have_none():
    assert repetition([[5, 6, 7] * 100]) == pytest.approx(1 - 3 / 293)
    assert repetition([list(range(300))]) == 0.0
    assert math.isnan(repetition([[1, 1, 1, 1, 1, 1, 1], []]))


def test_turns_of_an_episode_are_replies_of_their_own():
    ids, mask = (9, 1, 2, 8, 3, 4, 5), (False, True, True, False, True, True, True)
    assert list(sampled_spans(ids, mask)) == [(1, 2), (3, 4, 5)]
    assert list(sampled_spans((1,), (False,))) == []
