"""The data order: a function of seed and step, every prompt once an epoch, nothing dropped."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnow_core.data.batches import PromptBatches, epoch_order, split
from rnow_core.data.seeds import hash64, sample_key
from rnow_core.errors import RnowError
from rnow_core.types import Prompt


def prompts(n):
    return [Prompt(index=i, messages=(), file="train.jsonl", line=i + 1) for i in range(n)]


def indices(rows):
    return [row.index for row in rows]


@given(st.integers(1, 60), st.integers(0, 2**40), st.integers(0, 5))
def test_an_order_is_a_permutation(n, seed, epoch):
    assert sorted(epoch_order(n, seed, epoch)) == list(range(n))


def test_orders_differ_by_seed_and_epoch_and_never_change():
    orders = {tuple(epoch_order(20, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert epoch_order(8, 0, 0) == [0, 3, 6, 7, 4, 1, 5, 2]


def test_every_place_is_equally_likely():
    first = [epoch_order(4, seed, 0)[0] for seed in range(4000)]
    assert all(900 < first.count(i) < 1100 for i in range(4))


@given(n=st.integers(1, 40), size=st.integers(1, 12), epochs=st.integers(1, 3), seed=st.integers(0, 99))
def test_an_epoch_has_every_prompt_once(n, size, epochs, seed):
    batches = PromptBatches(prompts(n), size, seed)
    steps = [indices(batches.batch(step)) for step in range(1, batches.total_steps(epochs) + 1)]
    assert all(1 <= len(step) <= size for step in steps)
    per_epoch = batches.steps_per_epoch
    for epoch in range(epochs):
        seen = [i for step in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for i in step]
        assert seen == epoch_order(n, seed, epoch)
        assert batches.epoch(epoch * per_epoch + 1) == epoch


def test_the_last_partial_batch_is_trained():
    batches = PromptBatches(prompts(10), 4)
    assert [len(batches.batch(step)) for step in range(1, 7)] == [4, 4, 2, 4, 4, 2]
    assert batches.steps_per_epoch == 3


def test_fewer_prompts_than_a_batch():
    batches = PromptBatches(prompts(3), 8)
    assert sorted(indices(batches.batch(1))) == [0, 1, 2]
    assert batches.total_steps(5) == 5


def test_a_batch_does_not_depend_on_the_ones_before():
    batches = PromptBatches(prompts(17), 4, seed=3)
    late = indices(batches.batch(9))
    assert indices(PromptBatches(prompts(17), 4, seed=3).batch(9)) == late


def test_total_steps():
    batches = PromptBatches(prompts(10), 4)
    assert batches.total_steps(2) == 6
    assert batches.total_steps(2, max_steps=4) == 4
    assert batches.total_steps(2, max_steps=100) == 6


def test_wrong_use():
    with pytest.raises(RnowError, match="no rows"):
        PromptBatches([], 4)
    with pytest.raises(RnowError, match="batch_size is 0"):
        PromptBatches(prompts(1), 0)
    with pytest.raises(ValueError, match="from 1"):
        PromptBatches(prompts(1), 1).batch(0)


@given(n=st.integers(2, 50), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 99))
def test_a_split_is_a_partition(n, fraction, seed):
    train, val = split(prompts(n), fraction, seed)
    assert sorted(indices(train) + indices(val)) == list(range(n))
    assert train
    assert val
    assert abs(len(val) - fraction * n) <= 1
    assert indices(train) == sorted(indices(train))
    assert split(prompts(n), fraction, seed) == (train, val)


def test_splits_at_the_edges():
    assert split(prompts(3), 0.0, 0) == (tuple(prompts(3)), ())
    with pytest.raises(RnowError, match=r"val_split is 0\.5 but there is 1 row"):
        split(prompts(1), 0.5, 0)
    with pytest.raises(RnowError, match=r"val_split is 1\.0"):
        split(prompts(3), 1.0, 0)


def test_sample_keys_are_distinct_64_bit_numbers():
    keys = [
        sample_key(seed, step, prompt, sample, turn)
        for seed in range(3)
        for step in range(1, 5)
        for prompt in range(5)
        for sample in range(4)
        for turn in range(3)
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**64 for key in keys)
    assert max(keys) > 2**63


def test_keys_are_the_same_in_every_process():
    code = "from rnow_core.data.seeds import sample_key; print(sample_key(1, 2, 3, 4, 5))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{sample_key(1, 2, 3, 4, 5)}\n"}
    assert hash64("a", 1) != hash64("a", "1")
