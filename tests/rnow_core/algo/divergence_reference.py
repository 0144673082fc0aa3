"""Divergences again, written independently: float64, full tables of logits, one token at a time, plain autograd."""

import math

import float64_reference as naive
import torch


def between(kind, beta, a, b):
    """Sum over events from probabilities; `a` and `b` are lists of scalars, `a` with gradient."""
    total = torch.zeros((), dtype=torch.float64)
    for x, y in zip(a, b, strict=True):
        m = (1 - beta) * x + beta * y
        if kind == "reverse":
            total = total + x * (x / y).log()
        elif kind == "forward":
            total = total + y * (y / x).log()
        else:
            total = total + beta * y * (y / m).log() + (1 - beta) * x * (x / m).log()
    return total


def full(student_logits, teacher_logits, kind, beta):
    """Divergence of each token [N]: the ids that both have, and the student's other rows as one bucket."""
    p, q = student_logits.softmax(-1), teacher_logits.softmax(-1)
    shared = min(p.shape[1], q.shape[1])
    out = []
    for n in range(len(p)):
        a, b = [p[n, :shared]], [q[n, :shared]]
        if p.shape[1] > shared:
            a.append(p[n, shared:].sum()[None])
            b.append((1 - q[n, :shared].sum()).clamp(min=1e-6)[None])
        out.append(between(kind, beta, [torch.cat(a)], [torch.cat(b)]).sum())
    return torch.stack(out) if out else torch.zeros(0, dtype=torch.float64)


def support_of(teacher_logits, ids, k, rows):
    """For each token the K likeliest teacher ids below `rows`, the lower id first among equals, and the sampled one."""
    found = []
    for n, sampled in enumerate(ids.tolist()):
        ranked = sorted(
            range(min(rows, teacher_logits.shape[1])), key=lambda v: (-teacher_logits[n, v].item(), v)
        )
        found.append(sorted({*ranked[:k], sampled}))
    return found


def top(student_logits, teacher_logits, supports, kind, beta):
    """Divergence of each token [N] over its support and one bucket for every other id of the student."""
    p, q = student_logits.softmax(-1), teacher_logits.softmax(-1)
    out = []
    for n, support in enumerate(supports):
        rest = [v for v in range(p.shape[1]) if v not in support]
        a, b = [p[n, support]], [q[n, support]]
        if rest:
            a.append(p[n, rest].sum()[None])
            b.append(torch.tensor([max(1 - q[n, support].sum().item(), 1e-6)], dtype=torch.float64))
        out.append(between(kind, beta, [torch.cat(a)], [torch.cat(b)]).sum())
    return torch.stack(out)


def table(teacher_logits, supports, width):
    """Supports as ids and logprobs [N, width], filled up with NaN."""
    logq = teacher_logits.log_softmax(-1)
    ids = torch.zeros(len(supports), width, dtype=torch.int64)
    logprobs = torch.full((len(supports), width), math.nan, dtype=logq.dtype)
    for n, support in enumerate(supports):
        ids[n, : len(support)] = torch.tensor(support)
        logprobs[n, : len(support)] = logq[n, support]
    return ids, logprobs


def gradients(function, leaves, upstream, policy):
    """Divergence and logprobs, and the gradients of (divergence * up + policy * logp * down) for each leaf."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    divergence, logp, entropy = function(*leaves)
    loss = (divergence * upstream[0]).sum()
    if policy:
        loss = loss + (logp * upstream[1]).sum()
    loss.backward()
    return divergence.detach(), logp.detach(), entropy.detach(), *(leaf.grad for leaf in leaves)


logits = naive.logits
logprobs_and_entropy = naive.logprobs_and_entropy
