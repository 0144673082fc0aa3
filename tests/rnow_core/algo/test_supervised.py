"""The cross-entropy of `sft` against float64 autograd through whole logits."""

import torch

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.supervised import CrossEntropy


def unused(n: int) -> dict:
    """Columns that must not matter: NaN would show."""
    nan = torch.full((n,), float("nan"))
    return {
        "mu_N": nan,
        "teacher_N": None,
        "task_N": nan,
        "row_N": torch.zeros(n),
        "position_N": torch.ones(n),
    }


def test_value_and_gradient_are_those_of_a_naive_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(31, 16, generator=generator, dtype=torch.float64)
    ids = torch.randint(31, (7,), generator=generator)

    expected_hidden = hidden.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(expected_hidden @ weight.T, ids, reduction="sum")
    expected.backward()

    got_hidden = hidden.float().requires_grad_()
    logp, _ = token_logprobs(got_hidden, weight.float(), ids)
    loss, columns = CrossEntropy()(logp, old_N=None, **unused(7))
    loss.backward()

    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got_hidden.grad.double(), expected_hidden.grad, rtol=1e-4, atol=1e-5)
    assert not any(column.requires_grad for column in columns.values())
    torch.testing.assert_close(-columns["old"].sum(), loss.detach())


def test_a_later_pass_keeps_the_first_logprobs_as_old_and_trains_its_own():
    logp = torch.tensor([-1.0, -2.0], requires_grad=True)
    old = torch.tensor([-3.0, -4.0])
    loss, columns = CrossEntropy()(logp, old_N=old, **unused(2))
    loss.backward()
    assert loss.item() == 3.0
    assert logp.grad.tolist() == [-1.0, -1.0]
    assert columns["old"].tolist() == [-3.0, -4.0]


def test_no_token_is_no_loss():
    loss, _ = CrossEntropy()(torch.zeros(0, requires_grad=True), old_N=None, **unused(0))
    assert loss.item() == 0.0
