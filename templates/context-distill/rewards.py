"""The verifier. In pure distillation it is only written down; in hybrid mode it is part of the loss."""

from puzzle import parse_level, solves

from rnow import RewardArgs, get_response, reward


@reward
def solved(args: RewardArgs, messages: list) -> float:
    """1.0 when the moves in the reply's last line solve the row's `metadata.level`, else 0.0."""
    return float(solves(parse_level(args.metadata["level"]), get_response(messages)))
