from types import SimpleNamespace

import pytest
import torch

from rnow_core.errors import RnowError
from rnow_core.models.kv_cache import PromptCache, SlotCache, attention_windows, decode_masks

HEADS, SIZE, LAYERS = 2, 4, 3


def prompts(count, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cache = PromptCache()
    for layer in range(LAYERS):
        keys = torch.randn(count, HEADS, length, SIZE, generator=generator)
        returned = cache.update(keys, keys + 1, layer)
        assert returned[0] is keys
    return cache


def config(**fields):
    return SimpleNamespace(**({"_attn_implementation": "sdpa"} | fields))


def test_one_prompt_fills_many_slots():
    cache, prefilled = SlotCache(), prompts(2, 5)
    cache.reserve(4, 6)
    cache.store(prefilled, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 3, 1]))
    for layer in range(LAYERS):
        assert torch.equal(cache.keys[layer][:, :, :5], prefilled.keys[layer][[0, 1, 0, 1]])
        assert torch.equal(cache.values[layer][:, :, :5], prefilled.values[layer][[0, 1, 0, 1]])


def test_new_tokens_are_written_at_each_rows_position():
    cache = SlotCache()
    cache.reserve(3, 4)
    cache.store(prompts(3, 4), torch.arange(3), torch.arange(3))
    before = cache.keys[1].clone()
    position = torch.tensor([2, 4])
    width = cache.begin(position, 5)
    token = torch.randn(2, HEADS, 1, SIZE)
    keys, values = cache.update(token, -token, 1)
    assert keys.shape == (2, HEADS, width, SIZE)
    for row, at in enumerate(position.tolist()):
        assert torch.equal(keys[row, :, at], token[row, :, 0])
        assert torch.equal(values[row, :, at], -token[row, :, 0])
    assert torch.equal(keys[0, :, :2], before[0, :, :2])
    assert torch.equal(cache.keys[1][2], before[2])


def test_growing_and_moving_keep_what_is_stored():
    cache, prefilled = SlotCache(), prompts(3, 7)
    cache.reserve(3, 7)
    cache.store(prefilled, torch.arange(3), torch.arange(3))
    cache.reserve(9, 100)
    assert cache.keys[0].shape[0] >= 9
    assert cache.keys[0].shape[2] >= 100
    cache.move([2], [0], 7)
    for layer in range(LAYERS):
        assert torch.equal(cache.keys[layer][[0, 1], :, :7], prefilled.keys[layer][[2, 1]])
        assert torch.equal(cache.values[layer][[0, 1], :, :7], prefilled.values[layer][[2, 1]])
        assert cache.keys[layer].isfinite().all()


def test_masks_show_each_row_its_past_and_its_window():
    position = torch.tensor([0, 5, 9])
    masks = decode_masks({"full_attention": None, "sliding_attention": 3}, position, 16, torch.float32)
    for kind, window in (("full_attention", 100), ("sliding_attention", 3)):
        assert masks[kind].shape == (3, 1, 1, 16)
        for row, at in enumerate(position.tolist()):
            seen = (masks[kind][row, 0, 0] == 0).nonzero().flatten().tolist()
            assert seen == [column for column in range(16) if at - window < column <= at]
    assert isinstance(decode_masks({"full_attention": None}, position, 16, torch.float32), torch.Tensor)


def test_layer_types_come_from_the_config():
    assert attention_windows(config(), "m") == {"full_attention": None}
    assert attention_windows(config(sliding_window=8), "m") == {"sliding_attention": 8}
    mixed = config(sliding_window=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"])
    assert attention_windows(mixed, "m") == {"sliding_attention": 8, "full_attention": None}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"attention_chunk_size": 64}, "chunked_attention"),
        ({"num_kv_shared_layers": 2}, "share keys"),
        ({"_attn_implementation": "flash_attention_2"}, "flash_attention_2"),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_a_way_out(fields, told):
    with pytest.raises(RnowError, match=told) as caught:
        attention_windows(config(**fields), "tiny")
    assert "vllm" in caught.value.hint
