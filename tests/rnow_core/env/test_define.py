import pytest

from rnow_core.env import define
from rnow_core.env.define import (
    RewardArgs,
    RewardDefinitionError,
    RewardInfo,
    get_response,
    reward,
    total_reward,
)


def registered(name):
    return define.REGISTERED[name][0]


def test_plain_decorator_returns_the_function_itself():
    @reward
    def accuracy(args: RewardArgs, messages: list) -> float:
        return args.metadata["x"] + len(messages)

    assert accuracy(RewardArgs({"x": 1}), []) == 1
    info = registered("accuracy")
    assert (info.precondition, info.timeout, info.is_async) == (False, None, False)
    assert info.file.endswith("test_define.py")


def test_options_and_async():
    @reward(precondition=True, timeout=3)
    async def gate(args, messages):
        return 1

    info = registered("gate")
    assert (info.precondition, info.timeout, info.is_async) == (True, 3, True)


def one(args):
    return 1.0


def none():
    return 1.0


def keyword(args, *, messages):
    return 1.0


def star(*both):
    return 1.0


def three(args, messages, more=None):
    return 1.0


@pytest.mark.parametrize("function", [one, none, keyword, star, three])
def test_wrong_parameters_name_file_line_and_the_fix(function):
    with pytest.raises(
        RewardDefinitionError, match="expected two parameters, args and messages; got"
    ) as caught:
        reward(function)
    assert caught.value.line == function.__code__.co_firstlineno
    assert str(caught.value).split(":")[0].endswith("test_define.py")
    assert f"def {function.__name__}(args: RewardArgs, messages: list) -> float" in caught.value.hint


def test_a_generator_is_refused():
    def steps(args, messages):
        yield 1.0

    with pytest.raises(RewardDefinitionError, match="`steps`: it yields"):
        reward(steps)


@pytest.mark.parametrize("timeout", [0, -1, "10"])
def test_timeouts_are_positive_numbers(timeout):
    with pytest.raises(RewardDefinitionError, match="timeout is"):

        @reward(timeout=timeout)
        def late(args, messages):
            return 1.0


def test_two_rewards_of_one_name():
    @reward
    def same(args, messages):
        return 1.0

    with pytest.raises(RewardDefinitionError, match=r"a reward of this name exists at .*test_define\.py:\d+"):

        @reward
        def same(args, messages):
            return 2.0


def test_only_functions():
    with pytest.raises(TypeError, match="expects a function, got type"):

        @reward
        class Accuracy:
            pass


def test_get_response():
    def message(role, content):
        return {"role": role, "content": content}

    assert get_response([message("assistant", "a"), message("assistant", "b"), message("tool", "t")]) == "b"
    assert get_response([message("user", "q")]) == ""
    assert get_response([message("assistant", None)]) == ""
    parts = [{"type": "text", "text": "x"}, {"type": "image", "url": "u"}, {"type": "text", "text": "y"}]
    assert get_response([message("assistant", parts)]) == "xy"


def info(name, gate=False):
    return RewardInfo(name, "rewards.py", 1, precondition=gate)


def test_total():
    rewards = {"format": info("format", gate=True), "right": info("right"), "short": info("short")}
    assert total_reward({"right": 1.0, "short": 0.25}, rewards) == 1.25
    assert total_reward({"right": 0.0, "short": 0.25}, rewards) == 0.25
    assert total_reward({"format": 1.0, "right": 1.0}, rewards) == 2.0
    assert total_reward({"format": 0.0, "right": 1.0}, rewards) == 0.0
    assert total_reward({"format": 1e-9, "right": 1.0}, rewards) == 1.0 + 1e-9
    assert total_reward({}, rewards) == 0.0
