r"""Verifiers for a project's rewards.py: `from rnow.verifiers import numeric_match`.

    @reward
    def right(args, messages):
        return float(numeric_match(get_response(messages), args.metadata["answer"]))

Each takes the reply and one expected answer and says whether they agree. They look behind `</think>`, at the end of
the reply. `math_match` needs `pip install "rnow-distill[math]"`. The extractors behind them are here as well:
`final_number`, `chosen_letter`, `last_boxed`, `answer_text`.
"""

from rnow_core.env.verifiers.match import (
    choice_match,
    chosen_letter,
    exact_match,
    final_number,
    numeric_match,
)
from rnow_core.env.verifiers.mathematics import math_match
from rnow_core.env.verifiers.text import answer_text, last_boxed

__all__ = [
    "answer_text",
    "choice_match",
    "chosen_letter",
    "exact_match",
    "final_number",
    "last_boxed",
    "math_match",
    "numeric_match",
]
