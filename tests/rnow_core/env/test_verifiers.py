"""The built-in verifiers: tricky replies, hostile ones, and as rewards in their worker process."""

import asyncio
import os
import signal
from importlib.util import find_spec

import pytest

from rnow.verifiers import choice_match, exact_match, math_match, numeric_match
from rnow_core.env.call import RewardFailure
from rnow_core.env.rewards import ProjectRewards, known_rewards, require_verifiers
from rnow_core.env.verifiers.table import BUILT_IN
from rnow_core.errors import EnvironmentMissing, FindingsError, RnowError
from rnow_core.types import Prompt

needs_math = pytest.mark.skipif(find_spec("math_verify") is None, reason="the extra `math` is not installed")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("18", 18),
        ("#### 18\n", "18"),
        ("The answer is $1,234.50.", "1234.5"),
        ("so 3/4 of it", 0.75),
        (r"\boxed{\frac{3}{4}}", "0.75"),
        (r"\boxed{-\dfrac{3}{4}}", "-3/4"),
        ("about 0.333333", "1/3"),
        ("x=-5", "-5"),
        ("3-4", "4"),
        ("it is 50%", 50),
        ("1{,}000", "1e3"),
        ("−7", "-7"),
        ("The answer is 42. I checked it 3 times.", "42"),
        (r"\boxed{7} and 8", "7"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{3} and \boxed{4", "3"),
        ("<think>the answer is 41</think>It is 42", "42"),
        ("The answer is:\n\n**$70,000**", "She makes 7 * 10000 = 70000.\n#### 70000"),
    ],
)
def test_numbers_that_are_right(reply, answer):
    assert numeric_match(reply, answer)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("", "1"),
        ("no number", "1"),
        ("the answer is 42. Or 41", "41"),
        ("<think>42", "42"),
        ("<think>42</think> hmm 41", "42"),
        ("a1", "1"),
        ("12345678901234567890", "12345678901234567891"),
        ("5/0", "5"),
        ("1e999", "1"),
        ("0.33", "1/3"),
        (r"\boxed{} 5", "5"),
    ],
)
def test_numbers_that_are_wrong(reply, answer):
    assert not numeric_match(reply, answer)


@pytest.mark.parametrize(
    ("reply", "chosen"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("The answer is (C).", "C"),
        ("**Answer: D**", "D"),
        (r"\boxed{\text{A}}", "A"),
        (r"\boxed{B. Paris}", "B"),
        ("I think it's option B because A is wrong", "B"),
        ("(A) is hot, (B) is cold.\nSo I choose (D)", "D"),
        ("A car is fast", None),
        ("The answer is a good one", None),
        ("answer is Apple", None),
        ("", None),
    ],
)
def test_choices(reply, chosen):
    assert [letter for letter in "ABCD" if choice_match(reply, letter)] == ([chosen] if chosen else [])


def test_exact_ignores_reasoning_and_spaces_and_nothing_else():
    assert exact_match("<think>x</think>\n New  York\n", "New York")
    assert exact_match("cafe\u0301", "caf\u00e9")
    assert not exact_match("new york", "New York")
    assert not exact_match("It is New York", "New York")


HOSTILE = [
    "9" * 10_000_000,
    "{" * 10_000_000,
    r"\boxed{" * 1_000_000,
    r"\boxed{" * 300_000 + "}" * 300_000,
    "answer is " * 1_000_000,
    "1," * 5_000_000,
    "(A" * 5_000_000,
    "<think>" * 1_000_000,
    r"\frac{" * 1_000_000,
    "\\" * 10_000_001,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:8])
def test_hostile_text_is_answered_not_suffered(text):
    assert not numeric_match(text, "7")
    assert not choice_match(text, "Q")
    assert not exact_match(text, "7")


@needs_math
@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        (r"so \boxed{0.5}", r"\frac{1}{2}", True),
        (r"\boxed{42} hmm \boxed{43}", "43", True),
        (r"\boxed{42} hmm \boxed{43}", "42", False),
        (r"It is $2\sqrt2$.", r"\boxed{\sqrt{8}}", True),
        (r"\boxed{x^2+2x+1}", "$(x+1)^2$", True),
        (r"\boxed{9^{9^{9^{9}}}}", "5", False),
        ("(" * 10_000_000, "5", False),
        ("<think>5", "5", False),
    ],
)
def test_mathematics(reply, answer, right):
    assert math_match(reply, answer) is right


def test_mathematics_that_kills_its_process_is_wrong(monkeypatch):
    """Whatever a comparison does, the worker that asked for it lives and goes on."""
    monkeypatch.setattr("rnow_core.env.verifiers.mathematics.SECONDS", 0.2)
    from rnow_core.env.verifiers import mathematics

    assert mathematics._apart(lambda: 9**9**9 > 0) is None
    assert mathematics._apart(lambda: os.kill(os.getpid(), signal.SIGKILL)) is None
    assert mathematics._apart(lambda: True) is True


def test_without_its_package_the_reward_math_names_the_extra(monkeypatch):
    monkeypatch.setattr("rnow_core.env.verifiers.mathematics.find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissing, match="math-verify") as caught:
        require_verifiers(["numeric", "math"], BUILT_IN)
    assert caught.value.hint == 'pip install "rnow-distill[math]"'
    require_verifiers(["numeric"], BUILT_IN)
    own = {"math": known_rewards}
    require_verifiers(["math"], own)


def scores(project, *rows):
    """What rows of (rewards, metadata, reply) get: scores and total, or the error."""

    async def run():
        rewards = ProjectRewards(project, timeout=30.0, log=project / "log")
        try:
            found = []
            for names, metadata, reply in rows:
                prompt = Prompt(0, (), "t.jsonl", 1, rewards=tuple(names), metadata=metadata)
                messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": reply}]
                try:
                    given = await rewards.score(prompt, messages, None)
                    found.append((given, rewards.total(given)))
                except RnowError as error:
                    found.append(error)
            return found
        finally:
            await rewards.close()

    return asyncio.run(run())


def test_rewards_without_a_rewards_file(tmp_path):
    both, listed, without = scores(
        tmp_path,
        (["exact", "numeric", "multiple_choice"], {"answer": "B"}, "B"),
        (["exact"], {"expected_answer": ["no", "yes"]}, " yes\n"),
        (["numeric"], {"question": 1}, "5"),
    )
    assert isinstance(both, RewardFailure)
    assert "no number in the answer" in both.problem
    assert listed == ({"exact": 1.0}, 1.0)
    assert "metadata.answer" in without.problem


def test_a_projects_own_reward_of_the_name_wins_and_both_kinds_add_up(tmp_path):
    (tmp_path / "rewards.py").write_text(
        "from rnow import reward, get_response\nfrom rnow.verifiers import numeric_match\n\n"
        "@reward\ndef exact(args, messages):\n    return 0.25\n\n"
        "@reward(precondition=True)\ndef gate(args, messages):\n"
        "    return float(numeric_match(get_response(messages), args.metadata['answer']))\n"
    )
    mixed, gated, unknown = scores(
        tmp_path,
        (["exact", "multiple_choice", "gate"], {"answer": "7"}, "7"),
        (["numeric", "exact", "gate"], {"answer": 7}, "8"),
        (["nobody"], {"answer": 7}, "7"),
    )
    assert isinstance(mixed, RewardFailure)  # 7 is no letter
    assert gated == ({"numeric": 0.0, "exact": 0.25, "gate": 0.0}, 0.0)
    assert "nobody" in str(unknown)
    known = known_rewards(tmp_path, ["exact", "numeric"])
    assert list(known) == ["exact", "numeric", "gate"]
    assert (known["exact"].file, known["numeric"]) == ("rewards.py", BUILT_IN["numeric"])


def test_names_that_nobody_has_need_a_rewards_file(tmp_path):
    assert known_rewards(tmp_path, ["exact"]) == {"exact": BUILT_IN["exact"]}
    with pytest.raises(FindingsError, match=r"no rewards\.py"):
        known_rewards(tmp_path, ["exact", "accuracy"])
