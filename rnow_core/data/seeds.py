"""Counter-based randomness: a number is a hash of where it is used; there is no stream to share or save."""

from __future__ import annotations

from hashlib import blake2b


def hash64(*parts: int | str) -> int:
    """64 bits of blake2b over the parts, in 0 .. 2**64 - 1; the same on every platform and Python version."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def sample_key(run_seed: int, step: int, prompt_index: int, sample: int, turn: int) -> int:
    """The only source of randomness of one sampled reply: turn `turn` of rollout `sample` of a prompt."""
    return hash64("sample", run_seed, step, prompt_index, sample, turn)
