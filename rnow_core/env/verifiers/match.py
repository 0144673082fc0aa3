"""`exact_match`, `numeric_match` and `choice_match`: a reply against one expected answer. Standard library only."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from rnow_core.env.verifiers.text import announced, answer_text, last_boxed, normal

TOLERANCE = Fraction(1, 10**6)
"""Relative: 0.333333 is a third. Whole numbers must be equal."""

LONGEST_NUMBER = 60
"""Characters. Longer ones are not answers, and exact arithmetic on them could take for ever."""

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?<![\w.])\$?(?P<sign>[-+]?)\$?(?P<digits>{_PLAIN})(?:[eE](?P<power>[-+]?\d{{1,3}}))?"
    rf"(?:\s?/\s?(?P<over>\d+(?:\.\d+)?))?",
    re.ASCII,
)
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\s*\{\s*([-+]?[\d.]+)\s*\}\s*\{\s*([\d.]+)\s*\}", re.ASCII)
_TEX_SPACES = re.compile(r"\\[,!;:]|\{(?=,\})|(?<=,)\}")
_TEX = r"(?:\\text(?:bf)?\{)?"
_LETTER = rf"[*_(\[{{\s]*{_TEX}\(?(?P<letter>[A-Z])(?![\w'’])"
_FIRST = re.compile(_LETTER)
_CHOSEN = re.compile(rf"(?i:\b(?:option|choice|choose|answer)\b(?:\s+is)?)\s*:?{_LETTER}")
_ALONE = re.compile(rf"[^\w\\]*{_TEX}[^\w\\]*(?P<letter>[A-Za-z])[^\w]*", re.ASCII)
_MARKED = re.compile(r"(?:\(|\*\*|\[)\s*(?P<letter>[A-Z])\s*(?:\)|\*\*|\])")
_ALONE_LENGTH = 40


def exact_match(reply: str, answer: object) -> bool:
    """Whether the reply, without its reasoning, is the answer: the same text, but for spaces at and between words."""
    return normal(answer_text(reply)) == normal(str(answer))


def numeric_match(reply: str, answer: object) -> bool:
    r"""Whether the number that the reply ends with is the answer.

    It is looked for in the last `\boxed{}`, else behind the last `####`, else behind the last "answer is" or
    "answer:", else it is the last number of the reply. `1,234.5`, `$18`, `3/4`, `\frac{3}{4}`, `-2e3` and `50%`
    (50) are numbers. The answer may be a number or a text that ends with one, such as GSM8K's.

    Raises:
        ValueError: there is no number in the answer.
    """
    expected = Fraction(answer) if isinstance(answer, int | float) else final_number(str(answer))
    if expected is None:
        raise ValueError(f"there is no number in the answer {str(answer)[:80]!r}")
    got = final_number(answer_text(reply))
    if got is None:
        return False
    if got.denominator == expected.denominator == 1:
        return got == expected
    return abs(got - expected) <= TOLERANCE * max(abs(expected), TOLERANCE)


def final_number(text: str) -> Fraction | None:
    """The number that a text ends with, as `numeric_match` looks for it; None without one."""
    boxed = last_boxed(text)
    if boxed is not None:
        return _number(boxed, last=True)
    marked = announced(text)
    found = _number(marked, last=False) if marked is not None else None
    return found if found is not None else _number(text, last=True)


def choice_match(reply: str, answer: object) -> bool:
    r"""Whether the reply chooses the answer, a single letter.

    The choice is the letter in the last `\boxed{}`, else behind the last "answer is", "answer:", "option" or
    "choice", else the whole reply where that is one letter, else the last one in the last line that stands in
    brackets or in bold.

    Raises:
        ValueError: the answer is not one letter.
    """
    expected = _ALONE.fullmatch(str(answer).strip())
    if expected is None:
        raise ValueError(f"the answer of a multiple choice is one letter, got {str(answer)[:80]!r}")
    return chosen_letter(answer_text(reply)) == expected["letter"].upper()


def chosen_letter(text: str) -> str | None:
    """The upper-case letter that a text chooses, as `choice_match` looks for it; None without one."""
    boxed = last_boxed(text)
    whole = text if boxed is None else boxed
    alone = _ALONE.fullmatch(whole) if len(whole) <= _ALONE_LENGTH else None
    if alone is not None:
        return alone["letter"].upper()
    marked = announced(text) if boxed is None else boxed
    first = _FIRST.match(marked) if marked is not None else None
    if first is not None:
        return first["letter"]
    last_line = text.rpartition("\n")[2]
    for pattern, place in ((_CHOSEN, text), (_MARKED, last_line)):
        letters = [match["letter"] for match in pattern.finditer(place)]
        if letters:
            return letters[-1]
    return None


def _number(text: str, *, last: bool) -> Fraction | None:
    """The first or last number of a text; None when there is none, or it is absurdly long."""
    plain = _FRACTION.sub(r" \1\2/\3 ", text.replace("−", "-"))
    plain = _TEX_SPACES.sub("", plain).replace("\\", " ")
    found = list(_NUMBER.finditer(plain))
    if not found:
        return None
    match = found[-1 if last else 0]
    return _value(match) if len(match.group()) <= LONGEST_NUMBER else None


def _value(match: re.Match[str]) -> Fraction | None:
    """The number that was found, exactly; None for a division by zero."""
    value = Fraction(Decimal(match["digits"].replace(",", ""))) * Fraction(10) ** int(match["power"] or 0)
    over = Fraction(Decimal(match["over"] or 1))
    if over == 0:
        return None
    return (-value if match["sign"] == "-" else value) / over
