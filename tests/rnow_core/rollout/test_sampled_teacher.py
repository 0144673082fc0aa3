"""A sampler as a chat teacher: what it is asked, and what its replies are read as. The sampler says what it is told."""

import asyncio
import json

import pytest
from agents import ALPHABET, TEMPLATE, call_text
from tiny import make_tokenizer

from rnow_core.data.renderer import Renderer
from rnow_core.data.tool_calls.formats import detect_format
from rnow_core.models.chat_http import ChatRequest, NotThisOne
from rnow_core.rollout.sampled_teacher import SampledTeacher
from rnow_core.rollout.verdict import as_message, reply_problem
from rnow_core.types import Completion

SCHEMA = {
    "type": "function",
    "function": {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}},
}
REQUEST = ChatRequest("a/model", max_tokens=400, temperature=0.5)
QUESTION = {"role": "user", "content": "1+1=?"}


class Scripted:
    """Says one text; keeps what it was asked."""

    def __init__(self, renderer, text, ends=True):
        self.ids = (*renderer.encode(text), *([renderer.stop_ids[0]] if ends else []))
        self.stop_reason = "stop" if ends else "length"
        self.asked = []

    async def sample(self, ids, params, key):
        self.asked.append((tuple(ids), params, key))
        return Completion(self.ids, (0.0,) * len(self.ids), self.stop_reason, "teacher")


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_tokenizer(folder, ALPHABET)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": TEMPLATE}))
    return Renderer.load(folder)


def ask(renderer, text, messages=(QUESTION,), tools=(SCHEMA,), ends=True, window=1000):
    sampler = Scripted(renderer, text, ends)
    teacher = SampledTeacher(renderer, sampler, window, detect_format(renderer))
    answer = asyncio.run(teacher.ask(REQUEST, list(messages), list(tools), 7))
    return answer, sampler.asked[0]


def test_a_call_and_thoughts_are_read_out_of_what_was_sampled(renderer):
    text = "<think>add them</think>on it " + call_text("add", a=1, b=1)
    answer, (ids, params, key) = ask(renderer, text)
    message = as_message(answer, 0, reasoning=True)
    assert message["reasoning_content"] == "add them"
    assert message["content"] == "on it"
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1, "b": 1}'}
    assert (answer.finish, answer.cost) == ("tool_calls", 0.0)
    assert (answer.tokens_in, answer.tokens_out) == (len(ids), len(renderer.encode(text)) + 1)
    assert "add: adds" in renderer.decode(ids)
    assert (params.temperature, params.max_tokens, key) == (0.5, 400, 7)


def test_a_later_turn_has_call_ids_of_its_own_and_a_tool_result_cannot_end_its_turn(renderer):
    called, _ = ask(renderer, call_text("add", a=1, b=1))
    first = as_message(called, 0, reasoning=False)
    result = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "2<|im_end|>"}
    again, (ids, _, _) = ask(renderer, call_text("add", a=2, b=2), [QUESTION, first, result])
    second = as_message(again, 1, reasoning=False)
    assert first["tool_calls"][0]["id"] != second["tool_calls"][0]["id"]
    assert call_text("add", a=1, b=1) in renderer.decode(ids)
    assert list(ids).count(renderer.stop_ids[0]) == 4  # of the tools, the question, the call and its result


@pytest.mark.parametrize(
    ("text", "ends", "problem"),
    [
        ("<tool_call>{oops}</tool_call>", True, "invalid-json"),
        ('<tool_call>{"nothing": 1}</tool_call>', True, "invalid-json"),
        ("half of it", False, "truncated"),
        ("<think>on and on", False, "truncated"),
        ("", True, "unfinished"),
        ("2", True, None),
    ],
)
def test_a_reply_is_judged_as_a_servers_would_be(renderer, text, ends, problem):
    answer, _ = ask(renderer, text, ends=ends)
    message = as_message(answer, 0, reasoning=False)
    assert reply_problem(message, answer, tools=True, last=False) == problem


def test_without_tools_nothing_is_read_as_a_call(renderer):
    answer, (ids, _, _) = ask(renderer, call_text("add", a=1), tools=())
    assert answer.message == {"role": "assistant", "content": call_text("add", a=1)}
    assert "adds" not in renderer.decode(ids)


def test_the_window_bounds_prompt_and_reply(renderer):
    length = len(renderer.prompt_ids([QUESTION], tools=[SCHEMA]))
    _, (_, params, _) = ask(renderer, "2", window=length + 5)
    assert params.max_tokens == 5
    with pytest.raises(NotThisOne, match=f"{length} tokens") as caught:
        ask(renderer, "2", window=length)
    assert caught.value.reason == "too-long"
