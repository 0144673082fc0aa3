"""The labels by which containers are found again."""

MARK = "rnow.sandbox"
"""On everything: `container`, `guard` and `probe` on containers, `image` on what was built."""

RUN = "rnow.run"
OWNER = "rnow.owner"
