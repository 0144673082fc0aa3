"""The tools of a rollout: which ones a row has, how mistakes are told, where calls go."""

import asyncio

import pytest
from tool_projects import HEAD, inspected, write

from rnow_core.env.call import RewardFailure
from rnow_core.env.tool_arguments import ArgumentCheck
from rnow_core.env.tool_pool import local_runner
from rnow_core.env.tool_types import ToolInfo
from rnow_core.env.toolbox import ToolBox
from rnow_core.errors import EnvironmentMissing, RnowError
from rnow_core.types import Prompt

TOOLS = (
    HEAD
    + """
    from typing import Literal
    seen = []

    @tool
    def search(query: str, args: ToolArgs, limit: int = 3, sort: Literal["new", "old"] = "new") -> str:
        "Search."
        return f"{query} {limit} {sort} {args.metadata} {args.secrets}"

    @tool(timeout=0.5)
    def slow() -> str:
        "Slow."
        time.sleep(1000)

    @tool(sandbox=True)
    def note(text: str, args: ToolArgs) -> list:
        "Keeps notes."
        seen.append(text)
        return [seen, args.secrets]

    @tool(sandbox=True, network=False)
    def leave() -> str:
        "Leaves."
        os._exit(1)
"""
)
REWARDS = """
    import tools
    from rnow import reward

    @reward(sandbox=True)
    def notes(args, messages):
        return len(tools.seen)

    @reward(sandbox=True)
    def gone(args, messages):
        return None
"""


class LocalSandboxes:
    """Sandboxes that are plain processes: the seam without containers."""

    def __init__(self, project):
        self.project = project
        self.specs, self.closed, self.ahead = [], 0, []

    async def prepare(self, spec, count):
        self.ahead.append((spec.image, count))

    async def open(self, spec):
        self.specs.append(spec)
        return LocalSandbox(self)


class LocalSandbox:
    def __init__(self, owner):
        self.owner, self.process = owner, None

    async def runner(self):
        if self.process is None or not self.process.alive:
            self.process = local_runner(self.owner.project, {})
            await self.process.start()
            await self.process.load(self.owner.specs[-1].files)
        return self.process

    async def close(self):
        self.owner.closed += 1
        await self.process.close()


def prompt(tools=None, **options):
    return Prompt(0, ({"role": "user", "content": "q"},), "train.jsonl", 3, tools=tools, **options)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write(tmp_path_factory.mktemp("box") / "p", TOOLS, rewards=REWARDS)


@pytest.fixture(scope="module")
def tools(project):
    return list(inspected(project).values())


def with_session(project, tools, row, use, **options):
    """Run `await use(session)`; afterwards everything is closed."""

    async def main():
        box = ToolBox(project, tools, **options)
        try:
            async with box.session(row, "rollout") as session:
                return await asyncio.wait_for(use(session), 60)
        finally:
            await box.close()

    return asyncio.run(main())


def test_the_tools_of_a_row(project, tools):
    box = ToolBox(project, tools)
    names = [schema["function"]["name"] for schema in box.schemas(prompt())]
    assert names == ["search", "slow", "note", "leave"]
    (only,) = box.schemas(prompt(("note",)))
    assert only == {
        "type": "function",
        "function": {
            "name": "note",
            "description": "Keeps notes.",
            "parameters": {
                "type": "object",
                "properties": {"text": {"type": "string"}},
                "required": ["text"],
                "additionalProperties": False,
            },
        },
    }
    assert box.schemas(prompt(())) == []
    assert box.agentic(prompt())
    assert not box.agentic(prompt(()))
    with pytest.raises(RnowError, match=r"train\.jsonl:3: there is no tool `browse`") as caught:
        box.of(prompt(("browse",)))
    assert "search, slow" in caught.value.hint


def test_plain_calls(project, tools):
    async def use(session):
        calls = [
            session.call("search", {"query": "q", "limit": 2.0}),
            session.call("search", {"query": "q", "sort": "newest"}),
            session.call("search", '{"query": "q"}'),
            session.call("seach", {}),
            session.call("note", {"text": "x"}),
            session.call("slow", {}),
        ]
        return await asyncio.gather(*calls)

    row = prompt(("search", "slow"), metadata={"a": 1})
    good, enum, text, unknown, other_row, slow = with_session(project, tools, row, use, secrets={"K": "v"})
    assert (good.text, good.kind) == ("q 2 new {'a': 1} {'K': 'v'}", "ok")
    assert (enum.kind, enum.text) == (
        "arguments",
        '`search` was not called: `sort` is "newest" (text), expected one of "new", "old"',
    )
    assert text.kind == "arguments"
    assert "expected an object with its parameters, got text" in text.text
    assert (unknown.kind, unknown.text) == (
        "unknown",
        "there is no tool `seach`; did you mean `search`? (tools: `search`, `slow`)",
    )
    assert other_row.kind == "unknown"
    assert (slow.kind, slow.text) == ("timeout", "`slow` took longer than 0.5 s and was stopped")
    assert slow.seconds >= 0.5


def test_a_sandbox_lives_as_long_as_its_session(project, tools):
    boxes = LocalSandboxes(project)

    async def use(session):
        first, second = [await session.call("note", {"text": text}) for text in "ab"]
        assert (first.text, second.text) == ('[["a"], {"S": "1"}]', '[["a", "b"], {"S": "1"}]')
        assert await session.reward("notes", [], 30) == 2.0
        with pytest.raises(RewardFailure, match="returned None"):
            await session.reward("gone", [], 30)
        assert (await session.call("leave", {})).kind == "died"
        again = await session.call("note", {"text": "c"})
        assert again.text == '[["c"], {"S": "1"}]'
        assert boxes.closed == 0

    row = prompt(docker="local/x", docker_env={"A": "b"})
    with_session(project, tools, row, use, sandboxes=boxes, secrets={"K": "v"}, sandbox_secrets={"S": "1"})
    (spec,) = boxes.specs
    assert (spec.image, spec.env, spec.secrets, spec.network) == ("local/x", {"A": "b"}, {"S": "1"}, False)
    assert set(spec.files) == {"tools.py", "rewards.py"}
    assert boxes.closed == 1


@pytest.mark.parametrize(
    ("names", "allowed", "network"),
    [(("note",), True, True), (("note",), False, False), (("note", "leave"), True, False)],
)
def test_the_network_of_a_sandbox(project, tools, names, allowed, network):
    boxes = LocalSandboxes(project)

    async def use(session):
        return await session.call("note", {"text": "a"})

    row = prompt(names, docker="local/x")
    with_session(project, tools, row, use, sandboxes=boxes, network=allowed)
    assert boxes.specs[0].network is network
    with_session(project, tools, prompt(names), use, sandboxes=boxes, network=allowed)
    assert boxes.specs[1].network is False  # bubblewrap has none


def test_sandboxes_are_started_ahead_for_the_rollouts_of_each_image(project, tools):
    boxes = LocalSandboxes(project)
    rows = [prompt(docker="a"), prompt(docker="b"), prompt(docker="a"), prompt(("search",), docker="c")]
    asyncio.run(ToolBox(project, tools, sandboxes=boxes).prepare(rows, 4))
    assert boxes.ahead == [("a", 8), ("b", 4)]


def test_no_sandbox_is_opened_for_nothing(project, tools):
    boxes = LocalSandboxes(project)
    with_session(
        project, tools, prompt(), lambda session: session.call("search", {"query": "q"}), sandboxes=boxes
    )
    assert boxes.specs == []


def test_sandboxed_tools_without_a_place_for_them(project, tools):
    with pytest.raises(EnvironmentMissing, match="sandboxed tools"):
        with_session(project, tools, prompt(), lambda session: session.call("note", {"text": "x"}))


SCHEMA = {
    "type": "object",
    "properties": {
        "url": {"type": "string"},
        "points": {
            "type": "array",
            "items": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
            "maxItems": 2,
        },
        "many": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        "n": {"type": ["integer", "null"]},
    },
    "required": ["url"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "missing parameter `url` (text)"),
        ({"url": 3}, "`url` is 3 (an integer), expected text"),
        (
            {"url": "", "ulr": ""},
            "unknown parameter `ulr` (did you mean `url`?): there is `url`, `points`, `many`, `n`",
        ),
        ({"url": "", "points": [{"x": 1}, {"x": "1"}]}, '`points[1].x` is "1" (text), expected an integer'),
        ({"url": "", "points": [{}]}, "missing parameter `points[0].x` (an integer)"),
        ({"url": "", "points": [{"x": 1}] * 3}, "`points` has 3 items, expected at most 2"),
        ({"url": "", "many": [1]}, "`many` is [1] (a list), expected a list of text or null"),
        ({"url": "", "n": True}, "`n` is true (true or false), expected an integer or null"),
        ({"n": 1.5}, "missing parameter `url` (text); `n` is 1.5 (a number), expected an integer or null"),
    ],
)
def test_what_the_model_is_told_of_its_mistakes(arguments, said):
    assert ArgumentCheck("browse", SCHEMA).problem(arguments) == f"`browse` was not called: {said}"


def test_whole_floats_are_integers():
    assert ArgumentCheck("browse", SCHEMA).problem({"url": "", "n": 3.0}) == ""


def test_schemas_from_elsewhere_are_checked_and_load_nothing():
    with pytest.raises(RnowError, match="the parameters of the tool `x` are no JSON schema"):
        ArgumentCheck("x", {"type": "objekt"})
    outside = ArgumentCheck(
        "x", {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}}
    )
    assert "cannot be followed" in outside.problem({"a": 1})


def test_a_tool_of_another_definition_is_a_result(project, tools):
    """A schema that promises more than the function takes, as when tools.py changed after it was inspected."""
    stale = ToolInfo("search", "Search.", {"type": "object"})
    result = with_session(project, [stale], prompt(), lambda session: session.call("search", {"q": 1}))
    assert (result.kind, result.text) == ("arguments", "`search` was not called: there is no parameter `q`")
