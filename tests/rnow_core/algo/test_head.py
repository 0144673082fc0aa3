"""The head against full logits in float64: values, gradients, memory."""

import float64_reference as naive
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rnow_core.algo.head import token_logprobs

SHAPES = [(1, 3, 2), (7, 16, 8), (33, 50, 5), (64, 211, 24)]
HEADS = [{}, {"scale": 0.25}, {"softcap": 3.0}, {"softcap": 2.0, "scale": 1.7}]


def draw(seed, n, v, h, dtype=torch.float64, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, h, generator=generator, dtype=torch.float64)
    weight = torch.randn(v, h, generator=generator, dtype=torch.float64) * spread
    bias = torch.randn(v, generator=generator, dtype=torch.float64)
    ids = torch.randint(v, (n,), generator=generator)
    upstream = torch.randn(n, generator=generator, dtype=torch.float64)
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), ids, upstream.to(dtype)


def gradients(function, hidden, weight, bias, ids, upstream, **head):
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    logp, entropy = function(leaves[0], leaves[1], ids, bias=leaves[2], **head)
    (logp * upstream).sum().backward()
    return logp.detach(), entropy.detach(), *(leaf.grad for leaf in leaves)


def ours(hidden, weight, ids, bias=None, **head):
    return token_logprobs(hidden, weight, ids, bias_V=bias, **head)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_all_gradients_in_float64(shape, head):
    for seed in range(3):
        given = draw(seed, *shape)
        expected = gradients(naive.logprobs_and_entropy, *given, **head)
        got = gradients(ours, *given, chunk_bytes=8 * shape[1] * 5, **head)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("head", HEADS)
def test_float32_is_exact_to_float32(head):
    hidden, weight, _, ids, upstream = draw(5, 40, 300, 32, torch.float32, spread=2.0)
    leaf, reference = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    logp, entropy = token_logprobs(leaf, weight, ids, **head)
    (logp * upstream).sum().backward()
    expected, expected_entropy = naive.logprobs_and_entropy(reference, weight, ids, **head)
    (expected * upstream).sum().backward()
    assert logp.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logp.double(), expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(leaf.grad.double(), reference.grad, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("head", HEADS)
def test_gradcheck(head):
    hidden, weight, bias, ids, _ = draw(2, 6, 9, 4)
    leaves = tuple(tensor.requires_grad_() for tensor in (hidden, weight, bias))
    assert torch.autograd.gradcheck(
        lambda h, w, b: token_logprobs(h, w, ids, bias_V=b, chunk_bytes=8 * 9 * 4, **head)[0], leaves
    )


def test_confident_tokens_keep_their_small_gradient():
    """p is 1 - 3e-7: what is left of the gradient must not be lost to the rounding of p."""
    weight = torch.tensor([[15.0, 0.0], [0.0, 0.0]])
    hidden = torch.tensor([[1.0, 0.5]], requires_grad=True)
    token_logprobs(hidden, weight, torch.tensor([0]))[0].sum().backward()
    rest = 1.0 / (1.0 + torch.tensor(15.0).double().exp())
    torch.testing.assert_close(hidden.grad[0, 0].double(), 15.0 * rest, rtol=0.2, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_do_not_change_the_result(dtype):
    given = draw(3, 41, 97, 16, dtype)
    whole = gradients(ours, *given, softcap=5.0)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for rows in (1, 2, 13, 40):
        cut = gradients(ours, *given, softcap=5.0, chunk_bytes=rows * 97 * dtype.itemsize)
        for one, other in zip(cut, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_same_call_gives_same_bits():
    given = draw(4, 30, 60, 8, torch.float32)
    first, second = gradients(ours, *given), gradients(ours, *given)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_bfloat16_head():
    hidden, weight, _, ids, upstream = draw(6, 50, 128, 64, torch.bfloat16, spread=0.3)
    leaf, reference = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    logp, entropy = token_logprobs(leaf, weight, ids)
    (logp * upstream).sum().backward()
    expected, _ = naive.logprobs_and_entropy(reference, weight, ids)
    (expected * upstream).sum().backward()
    assert logp.dtype == entropy.dtype == torch.float32
    assert leaf.grad.dtype == torch.bfloat16
    assert (logp.double() - expected).abs().max() < 0.05
    error = (leaf.grad.double() - reference.grad).norm() / reference.grad.norm()
    assert error < 0.01


def test_hidden_states_of_another_dtype_than_the_head():
    hidden, weight, _, ids, _ = draw(7, 10, 20, 8, torch.float32)
    leaf = hidden.bfloat16().requires_grad_()
    logp, _ = token_logprobs(leaf, weight, ids)
    logp.sum().backward()
    expected, _ = naive.logprobs_and_entropy(hidden.bfloat16(), weight, ids)
    torch.testing.assert_close(logp.double(), expected, rtol=1e-5, atol=1e-5)
    assert leaf.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("head", HEADS)
def test_autocast_does_not_lower_the_precision(head):
    given = draw(8, 20, 40, 16, torch.float32)
    plain = gradients(ours, *given, **head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gradients(ours, *given, **head)
    assert all(torch.equal(one, other) for one, other in zip(plain, inside, strict=True))


def test_entropy_has_no_gradient_and_is_within_its_range():
    hidden, weight, _, ids, _ = draw(9, 30, 17, 4, spread=30.0)
    logp, entropy = token_logprobs(hidden.requires_grad_(), weight, ids)
    assert logp.requires_grad
    assert not entropy.requires_grad
    assert (entropy >= 0).all()
    assert (entropy <= torch.tensor(17.0, dtype=torch.float64).log() + 1e-12).all()


def test_frozen_hidden_states_and_trainable_head():
    hidden, weight, bias, ids, upstream = draw(10, 12, 9, 4)
    expected = gradients(naive.logprobs_and_entropy, hidden, weight, bias, ids, upstream)
    weight.requires_grad_()
    logp, _ = token_logprobs(hidden, weight, ids, bias_V=bias)
    (logp * upstream).sum().backward()
    torch.testing.assert_close(weight.grad, expected[3], rtol=1e-10, atol=1e-10)
    assert bias.grad is None
    assert hidden.grad is None


def test_no_tokens():
    hidden = torch.zeros(0, 4, requires_grad=True)
    weight = torch.randn(5, 4, requires_grad=True)
    logp, entropy = token_logprobs(hidden, weight, torch.zeros(0, dtype=torch.long))
    logp.sum().backward()
    assert logp.shape == entropy.shape == (0,)
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("bad", [-1, 5])
def test_ids_outside_the_head_are_an_error(bad):
    with pytest.raises(ValueError, match=r"the head has 5 rows: valid ids are 0\.\.4"):
        token_logprobs(torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0, bad]))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(2, 3\), expected \(4, 3\)"):
        token_logprobs(torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match=r"bias has shape \(4,\), expected \(5,\)"):
        token_logprobs(torch.zeros(1, 3), torch.zeros(5, 3), torch.tensor([0]), bias_V=torch.zeros(4))


class Recorder(TorchDispatchMode):
    """The largest tensor (elements) that any operation returned, and how often matrices were multiplied."""

    def __init__(self):
        super().__init__()
        self.largest = 0
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        self.products += func.overloadpacket in (
            torch.ops.aten.mm,
            torch.ops.aten.addmm,
            torch.ops.aten.addmm_,
        )
        return result


@pytest.mark.parametrize("tokens", [64, 512])
@pytest.mark.parametrize("trainable", [False, True])
def test_no_tensor_grows_with_tokens_times_vocabulary(tokens, trainable):
    v, h, rows = 1000, 16, 8
    hidden, weight, _, ids, _ = draw(11, tokens, v, h, torch.float32)
    weight.requires_grad_(trainable)
    with Recorder() as seen:
        logp, _ = token_logprobs(hidden.requires_grad_(), weight, ids, chunk_bytes=rows * v * 4)
        logp.sum().backward()
    assert seen.largest <= 2 * rows * v
    assert seen.products == tokens // rows * (4 if trainable else 2)


def saved_elements(function):
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        function()
    return sum(sizes)


def test_what_waits_for_backward():
    hidden, weight, _, ids, _ = draw(12, 32, 100, 8, torch.float32)
    with torch.no_grad():
        assert saved_elements(lambda: token_logprobs(hidden.requires_grad_(), weight, ids)) == 0
    assert saved_elements(lambda: token_logprobs(hidden.detach(), weight, ids)) == 0
    assert saved_elements(lambda: token_logprobs(hidden.requires_grad_(), weight, ids)) == hidden.numel()
