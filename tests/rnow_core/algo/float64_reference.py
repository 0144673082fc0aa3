"""The formulas again, written independently: float64, full logits, one token at a time, plain autograd."""

import math

import torch


def logits(hidden, weight, bias=None, softcap=None, scale=1.0):
    z = hidden.double() @ weight.double().T
    if bias is not None:
        z = z + bias.double()
    z = z * scale
    return softcap * torch.tanh(z / softcap) if softcap else z


def logprobs_and_entropy(hidden, weight, ids, **head):
    logq = torch.log_softmax(logits(hidden, weight, **head), dim=-1)
    chosen = torch.stack([logq[t, int(token)] for t, token in enumerate(ids)])
    return chosen, -(logq.exp() * logq).sum(-1)


def advantages(old, teacher, task, row, position, *, adv, teacher_tau, student_tau, low, high, gamma):
    """A_t by its definition on plain floats; a teacher's NaN leaves a token to its reward."""
    own = []
    for t in range(len(old)):
        d = (teacher_tau * teacher[t] if teacher_tau else 0.0) - (
            student_tau * old[t] if student_tau else 0.0
        )
        d = d if low is None else max(d, low)
        d = d if high is None else min(d, high)
        own.append(0.0 if teacher_tau and math.isnan(teacher[t]) else d)
    if not gamma:
        return [adv * a + d for a, d in zip(task, own, strict=True)]
    total = []
    for t in range(len(own)):
        later = [s for s in range(len(own)) if row[s] == row[t] and position[s] >= position[t]]
        total.append(sum(gamma ** (position[s] - position[t]) * own[s] for s in later))
    return [adv * a + d for a, d in zip(task, total, strict=True)]


def loss_and_gradient(name, logp, old, mu, advantage, *, tis_cap, cispo_cap, correct=True):
    """Summed loss, d loss / d logp and the clipped tokens, from the written-out derivatives."""
    loss, gradient, clipped = 0.0, [], []
    for p, o, m, a in zip(logp, old, mu, advantage, strict=True):
        w = min(math.exp(max(-20.0, min(20.0, o - m))), tis_cap) if correct else 1.0
        rho = math.exp(p - o)
        if name == "importance_sampling":
            value, slope, bound = -w * rho * a, -w * rho * a, False
        elif name == "ppo":
            inside = min(max(rho, 0.8), 1.2)
            bound = inside * a < rho * a
            value = -w * (inside * a if bound else rho * a)
            slope = 0.0 if bound else -w * rho * a
        else:
            bound = w * rho > cispo_cap
            ratio = cispo_cap if bound else w * rho
            value, slope = -ratio * a * p, -ratio * a
        loss += value
        gradient.append(slope)
        clipped.append(bound)
    return loss, gradient, clipped
