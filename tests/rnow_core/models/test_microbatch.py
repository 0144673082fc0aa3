"""Micro-batch plans, the index columns of packed and padded rows, and the learning-rate schedule."""

from __future__ import annotations

import random
from itertools import chain

import pytest
import torch

from rnow_core.models.columns import choose, slabs
from rnow_core.models.microbatch import packed_rows, padded_rows, token_budget
from rnow_core.models.schedule import learning_rate


def test_plans_hold_every_row_once_within_the_budget() -> None:
    stream = random.Random(0)
    for _ in range(50):
        lengths = [stream.randint(1, 60) for _ in range(stream.randint(1, 40))]
        budget = stream.randint(1, 300)
        for plan, size in [(padded_rows, max), (packed_rows, sum)]:
            parts = [[lengths[row] for row in part] for part in plan(lengths, budget)]
            assert sorted(row for part in plan(lengths, budget) for row in part) == list(range(len(lengths)))
            rows = [len(part) if size is max else 1 for part in parts]
            assert all(
                len(part) == 1 or count * size(part) <= budget
                for part, count in zip(parts, rows, strict=True)
            )
            assert all(part == sorted(part, reverse=True) for part in parts)


def test_packing_leaves_little_room() -> None:
    """First-fit decreasing needs at most 11/9 of the fewest lists, and one more."""
    stream = random.Random(3)
    lengths = [min(500, max(20, int(stream.lognormvariate(4.5, 0.8)))) for _ in range(300)]
    assert len(packed_rows(lengths, 1000)) <= -(-sum(lengths) // 1000) + 1


def test_equal_lengths_keep_their_order_and_empty_rows_are_left_out() -> None:
    assert padded_rows([4, 0, 4, 9, 4], 8) == [[3], [0, 2], [4]]
    assert packed_rows([4, 0, 3, 9, 4, 1], 8) == [[3], [0, 4], [2, 5]]
    assert padded_rows([], 8) == packed_rows([], 8) == []


def test_the_default_budget_is_fixed_by_the_device() -> None:
    assert token_budget(None, "cpu") == token_budget(None, "cpu") < token_budget(None, "cuda")
    assert token_budget(123, "cuda") == 123


@pytest.mark.parametrize("packed", [True, False])
def test_slabs_hold_each_chosen_token_once_behind_its_own_prefix(packed: bool) -> None:
    stream = random.Random(1)
    lengths = [stream.randint(2, 20) for _ in range(15)]
    rows = [[stream.randrange(1, 1000) for _ in range(length)] for length in lengths]
    mask = [[t > 0 and stream.random() < 0.3 for t in range(length)] for length in lengths]
    chosen = choose(torch.tensor(list(chain.from_iterable(mask))), torch.tensor(lengths))
    ids_F = torch.tensor(list(chain.from_iterable(rows)))
    seen = []
    made = slabs(ids_F, torch.tensor(lengths), chosen, 50, torch.device("cpu"), packed=packed)
    for part in made:
        width = part.ids_BL.shape[1]
        flat = part.ids_BL.flatten().tolist()
        assert (part.segments is not None) == packed
        for before, n in zip(part.before_N.tolist(), part.chosen_N.tolist(), strict=True):
            row, position = int(chosen.row_N[n]), int(chosen.position_N[n])
            assert mask[row][position]
            assert flat[before + 1 - position : before + 1] == rows[row][:position]
            if part.segments is None:
                assert before % width == position - 1
            else:
                assert part.segments.position_1T[0, before] == position - 1
                assert before + 1 - position in part.segments.bounds.tolist()
            seen.append(n)
    assert sorted(seen) == list(range(sum(map(sum, mask))))
    if packed:
        needed = [max((t for t, chosen in enumerate(row) if chosen), default=0) for row in mask]
        assert sum(part.ids_BL.numel() for part in made) == sum(needed)


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
