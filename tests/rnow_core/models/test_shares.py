"""Rows of a batch shared out over ranks."""

from learner_reference import make_batch

from rnow_core.models.shares import balance, share_out


def test_rows_are_balanced_by_tokens_and_never_split() -> None:
    assert balance([5, 9, 3, 3, 0], 2) == [[1, 4], [0, 2, 3]]
    assert balance([7], 3) == [[0], [], []]
    batch = make_batch(rows=9)
    shares = share_out(batch, 4)
    assert sorted(n for share in shares for n in share.batch.lengths) == sorted(batch.lengths)
    numbers = sorted(int(n) for share in shares for n in share.trained_N)
    assert numbers == list(range(batch.trained_tokens))
    mu_N = [mu for mu, trained in zip(batch.mu, batch.mask, strict=True) if trained]
    for share in shares:
        part = share.batch
        mine = [mu for mu, trained in zip(part.mu, part.mask, strict=True) if trained]
        assert mine == [mu_N[n] for n in share.trained_N]
