"""Advantages, losses and their sum against the reference, and the properties that the formulas promise."""

import math
import random

import float64_reference as naive
import pytest
import torch

from rnow_core.algo.objective import PolicyObjective

LOSSES = ["importance_sampling", "ppo", "cispo"]
F64 = torch.float64


def draw(seed, n=24, rows=4, drift=0.0, mismatch=0.3):
    """Columns of n trained tokens in `rows` rows with gaps between positions; logp is `drift` away from old."""
    rng = random.Random(seed)
    row = sorted(rng.randrange(rows) for _ in range(n))
    position, last = [], {}
    for r in row:
        last[r] = last.get(r, rng.randrange(5)) + rng.choice([1, 1, 1, 2, 7])
        position.append(last[r])
    old = [-abs(rng.gauss(0, 2)) for _ in range(n)]
    return {
        "logp": [p + rng.gauss(0, drift) for p in old],
        "old": old,
        "mu": [p + rng.gauss(0, mismatch) for p in old],
        "teacher": [-abs(rng.gauss(0, 3)) for _ in range(n)],
        "task": [rng.choice([-0.5, 0.5, 0.0, 1.0]) for _ in range(n)],
        "row": row,
        "position": position,
    }


def run(objective, c, *, first=False, teacher=True):
    """Loss, gradient with respect to logp, columns."""
    logp = torch.tensor(c["logp"], dtype=F64, requires_grad=True)
    loss, columns = objective(
        logp,
        old_N=None if first else torch.tensor(c["old"], dtype=F64),
        mu_N=torch.tensor(c["mu"], dtype=F64),
        teacher_N=torch.tensor(c["teacher"], dtype=F64) if teacher else None,
        task_N=torch.tensor(c["task"], dtype=F64),
        row_N=torch.tensor(c["row"]),
        position_N=torch.tensor(c["position"]),
    )
    (gradient,) = torch.autograd.grad(loss, logp)
    return loss.item(), gradient, columns


def random_objective(rng, name):
    low, high = rng.choice([(None, None), (-5.0, 5.0), (-0.5, None), (None, 0.2)])
    return PolicyObjective(
        loss_fn=name,
        adv_tau=rng.choice([0.0, 0.5, 1.0]),
        teacher_tau=rng.choice([0.1, 0.5, 1.0]),
        student_tau=rng.choice([0.0, 0.1, 0.5, 1.0]),
        clip_min=low,
        clip_max=high,
        kl_discount=rng.choice([0.0, 0.0, 0.7, 1.0]),
        tis_cap=rng.choice([1.1, 2.0]),
        cispo_cap=rng.choice([2.0, 4.0]),
        correct_mismatch=rng.choice([True, True, False]),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_against_the_reference(name):
    for seed in range(60):
        rng = random.Random(seed)
        objective, c = random_objective(rng, name), draw(seed, drift=0.5, mismatch=rng.choice([0.3, 15.0]))
        for lost in rng.sample(range(24), rng.choice([0, 5])):
            c["teacher"][lost] = math.nan
        expected_advantage = naive.advantages(
            c["old"],
            c["teacher"],
            c["task"],
            c["row"],
            c["position"],
            adv=objective.adv_tau,
            teacher_tau=objective.teacher_tau,
            student_tau=objective.student_tau,
            low=objective.clip_min,
            high=objective.clip_max,
            gamma=objective.kl_discount,
        )
        expected, slope, clipped = naive.loss_and_gradient(
            name,
            c["logp"],
            c["old"],
            c["mu"],
            expected_advantage,
            tis_cap=objective.tis_cap,
            cispo_cap=objective.cispo_cap,
            correct=objective.correct_mismatch,
        )
        loss, gradient, columns = run(objective, c)
        assert loss == pytest.approx(expected, rel=1e-10, abs=1e-10)
        torch.testing.assert_close(gradient, torch.tensor(slope, dtype=F64), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            columns["advantage"], torch.tensor(expected_advantage, dtype=F64), rtol=1e-10, atol=1e-10
        )
        assert columns["clipped"].tolist() == clipped
        assert columns["old"].tolist() == c["old"]


def test_the_reference_runs_meet_their_bounds():
    """The random cases above are worth something only if the bounds decide in some of them."""
    c = draw(0, drift=0.5)
    for name in ("ppo", "cispo"):
        tight = PolicyObjective(loss_fn=name, teacher_tau=1.0, student_tau=1.0, tis_cap=2.0, cispo_cap=1.0)
        clipped = run(tight, c)[2]["clipped"]
        assert 0 < clipped.sum() < len(clipped)


def test_first_update_all_losses_have_the_same_gradient_and_clip_nothing():
    for seed in range(10):
        c = draw(seed, mismatch=1.0)
        results = [
            run(PolicyObjective(loss_fn=name, adv_tau=0.5, clip_min=-5.0, clip_max=5.0), c, first=True)
            for name in LOSSES
        ]
        for _, gradient, columns in results:
            torch.testing.assert_close(gradient, results[0][1], rtol=1e-12, atol=0.0)
            assert columns["clipped"].sum() == 0
            assert columns["old"].tolist() == c["logp"]


def test_columns_are_detached():
    c = draw(1)
    for name in LOSSES:
        assert not any(
            column.requires_grad for column in run(PolicyObjective(name), c, first=True)[2].values()
        )


def test_teacher_that_is_the_student_moves_nothing():
    c = draw(2)
    c["teacher"] = c["logp"]
    loss, gradient, columns = run(PolicyObjective(kl_discount=0.9), c, first=True)
    assert loss == 0.0
    assert not gradient.any()
    assert not columns["advantage"].any()


def test_clip_comes_before_the_discount():
    c = {"logp": [-1.0] * 3, "old": [-1.0] * 3, "mu": [-1.0] * 3, "teacher": [-11.0] * 3, "task": [0.0] * 3}
    c |= {"row": [0, 0, 0], "position": [4, 5, 6]}
    objective = PolicyObjective(
        teacher_tau=1.0, student_tau=1.0, clip_min=-5.0, clip_max=5.0, kl_discount=0.5
    )
    assert run(objective, c)[2]["advantage"].tolist() == [-8.75, -7.5, -5.0]


def test_discount_counts_masked_positions_as_steps_and_stays_in_its_row():
    c = {"logp": [0.0] * 4, "old": [0.0] * 4, "mu": [0.0] * 4, "teacher": [-1.0, -2.0, -4.0, -8.0]}
    c |= {"task": [0.0] * 4, "row": [0, 0, 0, 1], "position": [3, 4, 7, 8]}
    objective = PolicyObjective(teacher_tau=1.0, student_tau=1.0, kl_discount=0.5)
    # from position 4 to 7 are three steps, two of them masked
    assert run(objective, c)[2]["advantage"].tolist() == [-1 - 0.5 * 2 - 4 / 16, -2 - 4 / 8, -4, -8]


def test_discount_does_not_depend_on_the_order_of_tokens():
    c = draw(5, n=40)
    objective = PolicyObjective(kl_discount=0.8)
    ordered = run(objective, c)[2]["advantage"]
    shuffled = list(range(40))
    random.Random(0).shuffle(shuffled)
    mixed = run(objective, {name: [column[i] for i in shuffled] for name, column in c.items()})[2][
        "advantage"
    ]
    torch.testing.assert_close(mixed, ordered[shuffled], rtol=1e-12, atol=1e-12)


def test_what_is_masked_cannot_reach_the_loss():
    """Columns are selected, not multiplied: NaN on masked positions stays there."""
    c = draw(6)
    mask = torch.tensor([i % 3 != 0 for i in range(len(c["logp"]))])
    clean = {name: [v for v, keep in zip(c[name], mask, strict=True) if keep] for name in c}
    expected = run(PolicyObjective(kl_discount=0.5, adv_tau=1.0), clean)
    logp = torch.tensor(c["logp"], dtype=F64)
    poisoned = {
        name: torch.where(mask, torch.tensor(c[name], dtype=F64), math.nan)
        for name in ("logp", "old", "mu", "teacher", "task")
    }
    logp = poisoned["logp"].requires_grad_()
    loss, _ = PolicyObjective(kl_discount=0.5, adv_tau=1.0)(
        logp[mask],
        **{f"{name}_N": poisoned[name][mask] for name in ("old", "mu", "teacher", "task")},
        row_N=torch.tensor(c["row"])[mask],
        position_N=torch.tensor(c["position"])[mask],
    )
    (gradient,) = torch.autograd.grad(loss, logp)
    assert loss.item() == expected[0]
    assert torch.equal(gradient[mask], expected[1])
    assert not gradient[~mask].any()


def test_a_tau_of_zero_leaves_its_model_out():
    c = draw(7)
    c["teacher"] = [math.nan] * len(c["logp"])
    rl = PolicyObjective(adv_tau=1.0, teacher_tau=0.0, student_tau=0.0)
    with_nan, without = run(rl, c), run(rl, c, teacher=False)
    assert with_nan[0] == without[0]
    assert without[2]["advantage"].tolist() == c["task"]


def test_a_missing_teacher_is_an_error_where_it_counts():
    with pytest.raises(ValueError, match=r"teacher_tau is 0\.1, but there are no teacher logprobs"):
        run(PolicyObjective(), draw(8), teacher=False)


def test_no_token_no_loss():
    c = {name: [] for name in ("logp", "old", "mu", "teacher", "task", "row", "position")}
    for name in LOSSES:
        loss, gradient, columns = run(PolicyObjective(name, kl_discount=0.5), c)
        assert loss == 0.0
        assert len(gradient) == len(columns["old"]) == 0


def test_a_broken_sampler_logprob_does_not_make_inf():
    c = {"logp": [-1.0], "old": [-1.0], "mu": [-1000.0], "teacher": [-2.0], "task": [0.0], "row": [0]}
    c["position"] = [1]
    loss, gradient, _ = run(PolicyObjective(teacher_tau=1.0, student_tau=1.0, tis_cap=math.inf), c)
    assert loss == pytest.approx(math.exp(20.0))
    assert torch.isfinite(gradient).all()


def expected_gradient(logits, teacher_logp, objective):
    """Exact expectation of the loss's gradient over the student's own samples, by enumerating the vocabulary."""
    logits = logits.clone().requires_grad_()
    logp = torch.log_softmax(logits, -1)
    total = torch.zeros_like(logits)
    for token in range(len(logits)):
        loss, _ = objective(
            logp[token : token + 1],
            old_N=None,
            mu_N=logp[token : token + 1].detach(),
            teacher_N=teacher_logp[token : token + 1],
            task_N=torch.zeros(1, dtype=F64),
            row_N=torch.zeros(1, dtype=torch.long),
            position_N=torch.ones(1, dtype=torch.long),
        )
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        total += logp[token].detach().exp() * gradient
    return total


@pytest.mark.parametrize("name", LOSSES)
def test_expected_gradient_is_that_of_the_reverse_kl(name):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, generator=generator, dtype=F64) * 2
    teacher = torch.log_softmax(torch.randn(30, generator=generator, dtype=F64) * 3, -1)
    leaf = logits.clone().requires_grad_()
    q = torch.log_softmax(leaf, -1)
    (kl_gradient,) = torch.autograd.grad((q.exp() * (q - teacher)).sum(), leaf)
    got = expected_gradient(logits, teacher, PolicyObjective(name, teacher_tau=0.3, student_tau=0.3))
    torch.testing.assert_close(got, 0.3 * kl_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("teacher_tau", "student_tau"), [(1.0, 0.5), (0.5, 1.0), (0.5, 0.5)])
def test_unequal_taus_are_at_rest_at_a_power_of_the_teacher(teacher_tau, student_tau):
    teacher = torch.log_softmax(
        torch.randn(20, generator=torch.Generator().manual_seed(3), dtype=F64) * 2, -1
    )
    objective = PolicyObjective(teacher_tau=teacher_tau, student_tau=student_tau)
    optimum = teacher * (teacher_tau / student_tau)
    assert expected_gradient(optimum, teacher, objective).abs().max() < 1e-12
    moves_away = expected_gradient(teacher, teacher, objective).abs().max() > 1e-3
    assert moves_away == (teacher_tau != student_tau)
