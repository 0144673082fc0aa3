"""Micro-batch plans, padded index columns, and the learning-rate schedule."""

from __future__ import annotations

import random
from itertools import chain

import pytest
import torch

from rnow_core.models.columns import choose, slabs
from rnow_core.models.microbatch import micro_batches, token_budget
from rnow_core.models.schedule import learning_rate


def test_plans_hold_every_row_once_within_the_budget() -> None:
    stream = random.Random(0)
    for _ in range(50):
        lengths = [stream.randint(1, 60) for _ in range(stream.randint(1, 40))]
        budget = stream.randint(1, 300)
        plan = micro_batches(lengths, budget)
        assert sorted(row for part in plan for row in part) == list(range(len(lengths)))
        assert all(len(part) == 1 or len(part) * max(lengths[r] for r in part) <= budget for part in plan)
        flat = [lengths[row] for part in plan for row in part]
        assert flat == sorted(flat, reverse=True)


def test_equal_lengths_keep_their_order_and_empty_rows_are_left_out() -> None:
    assert micro_batches([4, 0, 4, 9, 4], 8) == [[3], [0, 2], [4]]
    assert micro_batches([], 8) == []


def test_the_default_budget_is_fixed_by_the_device() -> None:
    assert token_budget(None, "cpu") == token_budget(None, "cpu") < token_budget(None, "cuda")
    assert token_budget(123, "cuda") == 123


def test_slabs_hold_each_chosen_token_once_behind_its_own_prefix() -> None:
    stream = random.Random(1)
    lengths = [stream.randint(2, 20) for _ in range(15)]
    rows = [[stream.randrange(1, 1000) for _ in range(length)] for length in lengths]
    mask = [[t > 0 and stream.random() < 0.3 for t in range(length)] for length in lengths]
    chosen = choose(torch.tensor(list(chain.from_iterable(mask))), torch.tensor(lengths))
    ids_F = torch.tensor(list(chain.from_iterable(rows)))
    seen = []
    for part in slabs(ids_F, torch.tensor(lengths), chosen, 50, torch.device("cpu")):
        width = part.ids_BL.shape[1]
        for before, n in zip(part.before_N.tolist(), part.chosen_N.tolist(), strict=True):
            row, position = int(chosen.row_N[n]), int(chosen.position_N[n])
            assert mask[row][position]
            slot, column = divmod(before, width)
            assert part.ids_BL[slot, : column + 1].tolist() == rows[row][:position]
            seen.append(n)
    assert sorted(seen) == list(range(sum(map(sum, mask))))


def test_a_first_token_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="row 1"):
        choose(torch.tensor([False, True, True, False]), torch.tensor([2, 2]))


def test_schedules() -> None:
    constant = [learning_rate(step, 2.0, "constant", 4, 10) for step in range(1, 11)]
    assert constant == [0.5, 1.0, 1.5, 2.0, *[2.0] * 6]
    linear = [learning_rate(step, 2.0, "linear", 2, 6) for step in range(1, 8)]
    assert linear == pytest.approx([1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0])
    cosine = [learning_rate(step, 2.0, "cosine", 0, 4) for step in range(1, 6)]
    assert cosine == pytest.approx([2.0, 1.0 + 0.5**0.5, 1.0, 1.0 - 0.5**0.5, 0.0])
    assert learning_rate(3, 2.0, "linear", 9, 3) == pytest.approx(2 / 3)
