from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from rnow_core.models.decode_attention import NAME, grouped_attention, grouped_decode


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
def test_grouped_decode_equals_attention_over_repeated_heads(groups, masked):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, 2 * groups, 1, 8, generator=generator)
    key, value = (torch.randn(5, 2, 11, 8, generator=generator) for _ in range(2))
    mask = torch.zeros(5, 1, 1, 11).masked_fill_(torch.arange(11) > 6, -torch.inf) if masked else None
    repeated = [held.repeat_interleave(groups, 1) for held in (key, value)]
    expected = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(1, 2)
    got, _ = grouped_decode(None, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(got, expected)


def test_the_config_is_restored_even_after_an_error():
    config = SimpleNamespace(_attn_implementation="sdpa")
    seen = []

    def fail():
        with grouped_attention(config):
            seen.append(config._attn_implementation)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [NAME]
    assert config._attn_implementation == "sdpa"


def test_eager_models_keep_their_own_attention():
    config = SimpleNamespace(_attn_implementation="eager")
    with grouped_attention(config):
        assert config._attn_implementation == "eager"
