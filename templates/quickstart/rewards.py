"""Held-out accuracy. Tracked only: in this project's config no reward enters the loss."""

from rnow import RewardArgs, get_response, reward


@reward
def accuracy(args: RewardArgs, messages: list) -> float:
    """1.0 when the reply is exactly the row's `metadata.answer`, else 0.0."""
    return float(get_response(messages) == args.metadata["answer"])
