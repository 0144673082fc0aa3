"""Divergences against full tables of logits in float64: values, gradients, ends of the range, memory."""

import divergence_reference as reference
import pytest
import torch
from test_head import Recorder

from rnow_core.algo.divergence import token_divergence
from rnow_core.algo.divergence_full import FullTeacher
from rnow_core.algo.divergence_top import TopTeacher
from rnow_core.algo.events import Divergence
from rnow_core.algo.projection import Projection

N = 7
# student rows and width, teacher rows and width
WIDTHS = [(9, 4, 9, 6), (13, 5, 11, 3), (11, 3, 13, 5), (1, 2, 1, 2)]
HEADS = [{}, {"softcap": 2.0, "scale": 1.7}]
KINDS = [("reverse", 0.5), ("forward", 0.5), ("jsd", 0.5), ("jsd", 0.1)]


class Case:
    """Random student and teacher heads and hidden states, float64 unless told otherwise."""

    def __init__(self, seed, widths, n=N, dtype=torch.float64, spread=1.0, **head):
        self.rows, width, other_rows, other_width = widths
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.leaves = [
            (x * spread).to(dtype) for x in (draw(n, width), draw(self.rows, width), draw(self.rows))
        ]
        self.other = [(x * spread).to(dtype) for x in (draw(n, other_width), draw(other_rows, other_width))]
        self.ids = torch.randint(min(self.rows, other_rows), (n,), generator=generator)
        self.upstream = [draw(n).to(dtype), draw(n).to(dtype)]
        self.head = head
        self.teacher_logits = reference.logits(*self.other, **head)

    def full(self, **changes):
        return FullTeacher(self.other[0], Projection(self.other[1], **self.head, **changes))

    def top(self, k):
        self.supports = reference.support_of(self.teacher_logits, self.ids, k, self.rows)
        return TopTeacher(*reference.table(self.teacher_logits, self.supports, k + 1))

    def ours(self, teacher, kind, beta=0.5, policy=False, chunk=3):
        size = 8 * self.rows * chunk

        def function(hidden, weight, bias):
            return token_divergence(
                hidden,
                weight,
                self.ids,
                teacher,
                Divergence(kind, beta),
                bias_V=bias,
                policy=policy,
                chunk_bytes=size,
                **self.head,
            )

        return function

    def naive(self, values, kind, beta=0.5):
        def function(hidden, weight, bias):
            logits = reference.logits(hidden, weight, bias=bias, **self.head)
            logp, entropy = reference.logprobs_and_entropy(hidden, weight, self.ids, bias=bias, **self.head)
            return values(logits, kind, beta), logp, entropy

        return function

    def naive_full(self, *args):
        return self.naive(lambda z, kind, beta: reference.full(z, self.teacher_logits, kind, beta), *args)

    def naive_top(self, *args):
        return self.naive(
            lambda z, kind, beta: reference.top(z, self.teacher_logits, self.supports, kind, beta), *args
        )

    def results(self, function, policy=False):
        return reference.gradients(function, self.leaves, self.upstream, policy)


def assert_same(got, expected, tolerance=1e-10):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("head", HEADS, ids=["plain", "capped"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("policy", [False, True])
def test_full_values_and_all_gradients_in_float64(widths, head, kind, beta, policy):
    case = Case(1, widths, **head)
    got = case.results(case.ours(case.full(), kind, beta, policy), policy)
    assert_same(got, case.results(case.naive_full(kind, beta), policy))


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("head", HEADS, ids=["plain", "capped"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_top_values_and_all_gradients_in_float64_for_every_k(widths, head, kind, beta):
    for k in range(1, min(widths[0], widths[2]) + 1):
        case, policy = Case(k, widths, **head), k % 2 == 0
        teacher = case.top(k)
        got = case.results(case.ours(teacher, kind, beta, policy), policy)
        assert_same(got, case.results(case.naive_top(kind, beta), policy))


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_all_ids_as_support_is_the_whole_vocabulary(widths, kind, beta):
    case = Case(3, widths)
    teacher = case.top(min(widths[0], widths[2]))
    assert_same(
        case.results(case.ours(teacher, kind, beta)), case.results(case.ours(case.full(), kind, beta))
    )


def test_padded_rows_of_the_student_take_the_least_tail_and_those_of_the_teacher_are_dropped():
    """What the design says of 151,936 against 152,064 rows, in small numbers that can be followed by hand."""
    eye = torch.eye(4, dtype=torch.float64)
    half, hidden = torch.tensor([[0.5, 0.5]], dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    padded = FullTeacher(half.log(), Projection(eye[:2, :2]))
    value, *_ = token_divergence(hidden, eye, torch.tensor([0]), padded, Divergence("reverse"))
    assert value.item() == pytest.approx(
        0.5 * torch.tensor(0.25 / 0.5).log() + 0.5 * torch.tensor(0.5e6).log()
    )
    wider = FullTeacher(hidden, Projection(eye))
    value, *_ = token_divergence(half.log(), eye[:2, :2], torch.tensor([0]), wider, Divergence("forward"))
    assert value.item() == pytest.approx(2 * 0.25 * torch.tensor(0.25 / 0.5).log())


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("signal", ["full", "top"])
def test_float32_is_exact_to_float32_and_cut_chunks_change_nothing(signal, kind, beta):
    case = Case(5, (300, 32, 320, 24), n=40, dtype=torch.float32, spread=0.7)
    teacher = case.full() if signal == "full" else case.top(16)
    naive = case.naive_full if signal == "full" else case.naive_top
    got = case.results(case.ours(teacher, kind, beta, policy=True, chunk=7), policy=True)
    assert all(tensor.dtype == torch.float32 for tensor in got)
    assert_same(got, case.results(naive(kind, beta), policy=True), 2e-4)
    assert_same(case.results(case.ours(teacher, kind, beta, policy=True, chunk=500), policy=True), got, 2e-5)


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_a_teacher_that_is_the_student_gives_nothing(kind, beta):
    case = Case(6, (97, 16, 97, 16), n=20, dtype=torch.float32, spread=1.5)
    hidden, weight, _ = case.leaves
    case.other = [hidden, weight]
    case.teacher_logits = reference.logits(hidden, weight).float()
    for teacher in (case.full(), case.top(8)):
        leaf = hidden.clone().requires_grad_()
        value, *_ = token_divergence(leaf, weight, case.ids, teacher, Divergence(kind, beta))
        value.sum().backward()
        assert value.abs().max() < 5e-6
        assert leaf.grad.abs().max() < 2e-5
        if isinstance(teacher, FullTeacher) and kind != "jsd":
            assert not value.any()
            assert not leaf.grad.any()


def test_a_surer_student_than_float32_can_hold_stays_finite():
    """Logits 200 apart: probabilities underflow on both sides, the divergences do not."""
    weight = torch.tensor([[200.0, 0.0], [0.0, 200.0], [-200.0, 0.0]])
    hidden, other, ids = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    logq = (other @ weight.T).log_softmax(-1)
    for teacher in (
        FullTeacher(other, Projection(weight)),
        TopTeacher(torch.tensor([[1, 0]]), logq[:, [1, 0]]),
    ):
        for kind, expected in (("reverse", 200.0), ("forward", 200.0), ("jsd", 0.6931)):
            leaf, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
            value, *_ = token_divergence(leaf, head, ids, teacher, Divergence(kind), policy=True)
            value.sum().backward()
            assert value.item() == pytest.approx(expected, rel=1e-3)
            assert leaf.grad.isfinite().all()
            assert head.grad.isfinite().all()


@pytest.mark.parametrize("signal", ["full", "top"])
def test_bfloat16_heads(signal):
    case = Case(8, (128, 64, 128, 64), n=30, dtype=torch.bfloat16, spread=0.5)
    teacher = case.full() if signal == "full" else case.top(16)
    naive = case.naive_full if signal == "full" else case.naive_top
    hidden, expected = case.leaves[0], case.results(naive("reverse"))
    assert hidden.dtype == torch.bfloat16
    got = case.results(case.ours(teacher, "reverse"))
    assert got[0].dtype == torch.float32
    assert got[3].dtype == torch.bfloat16
    error = (got[3].double() - expected[3].double()).norm() / expected[3].double().norm()
    assert error < 0.05


@pytest.mark.parametrize("signal", ["full", "top"])
def test_no_tensor_grows_with_tokens_times_vocabulary_and_a_frozen_head_is_projected_once(signal):
    rows, v = 8, 500
    for n in (64, 256):
        case = Case(9, (v, 16, v, 24), n=n, dtype=torch.float32)
        teacher = case.full() if signal == "full" else case.top(4)
        hidden, weight, _ = case.leaves
        with Recorder() as seen:
            value, *_ = token_divergence(
                hidden.requires_grad_(), weight, case.ids, teacher, Divergence(), chunk_bytes=rows * v * 4
            )
            value.sum().backward()
        assert seen.largest <= 3 * rows * v
        assert seen.products == n // rows * (3 if signal == "full" else 2)


def test_no_tokens_and_beta_at_its_ends():
    case = Case(10, (5, 4, 5, 4), n=0)
    got = case.results(case.ours(case.full(), "reverse"))
    assert got[0].shape == (0,)
    assert not got[4].any()
    for beta in (0.0, 1.0):
        with pytest.raises(ValueError, match="jsd is always 0, use forward or reverse"):
            Divergence("jsd", beta)
