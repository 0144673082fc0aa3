"""Agents that learn from what tools say, and runs whose tools misbehave in every way."""

from agent_runs import asked_once, guessed, run, schemas, traces, write_config
from agents import agent_rows, make_agent_model, teach, tool_call, write_agent_project

ADDED = '''from rnow import reward


@reward
def added(args, messages) -> float:
    """1 when a tool said the right sum."""
    said = [message["content"] for message in messages if message["role"] == "tool"]
    return float(args.metadata["sum"] in said)
'''


def test_rl_learns_to_call_a_tool_from_a_reward_that_reads_its_results(tmp_path):
    rows = [
        {**row, "rewards": ["added"], "metadata": {"sum": str(2 * i + 1)}}
        for i, row in enumerate(agent_rows(4))
    ]
    config = write_agent_project(
        tmp_path,
        rows,
        dataset_type="rl",
        teacher=None,
        data={"group_size": 8},
        trainer={"max_steps": 12, "num_epochs": 12, "learning_rate": 0.01, "save_step": -1},
    )
    write_config(tmp_path, config)
    (tmp_path / "rewards.py").write_text(ADDED)
    make_agent_model(tmp_path / "student")
    both = [conversation(i) for i in range(4) for conversation in (asked_once, guessed)]
    teach(tmp_path / "student", both, schemas(tmp_path, "add"))
    steps = run(tmp_path, "rl")
    before, after = steps[0], steps[-1]
    assert 0.1 < before["reward/mean"] < 0.8
    assert after["reward/mean"] > 0.9
    assert after["tools/calls"] > before["tools/calls"]


BAD_TOOLS = '''import os, sys, time

from rnow import tool


@tool
def crash() -> str:
    """Raises."""
    raise RuntimeError("broken")


@tool(timeout=1)
def hang() -> str:
    """Never ends."""
    while True:
        time.sleep(1)


@tool
def flood() -> str:
    """Prints a gigabyte."""
    for _ in range(1024):
        print("x" * 2**20)
    return "printed"


@tool
def leave() -> str:
    """Ends the interpreter."""
    os._exit(3)


@tool
def odd() -> str:
    """Text that is no text."""
    return "half \\ud800 of it"


@tool
def long() -> str:
    """Much more than a context window."""
    return "y" * 50_000_000
'''
OUTCOMES = {
    "crash": "broken",
    "hang": "1 s",
    "flood": "printed",
    "leave": "exit",
    "odd": "half",
    "long": "[cut:",
}


def test_a_run_goes_on_whatever_its_tools_do(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"{name}?"}], "tools": list(OUTCOMES)} for name in OUTCOMES
    ]
    config = write_agent_project(
        tmp_path,
        rows * 2,
        data={"batch_size": 6, "group_size": 1},
        rollout={"max_tool_response": 40},
        trainer={"max_steps": 2, "learning_rate": 0.0001},
        teacher={"path": "./student"},
    )
    write_config(tmp_path, config)
    (tmp_path / "tools.py").write_text(BAD_TOOLS)
    make_agent_model(tmp_path / "student")
    conversations = [
        [
            {"role": "user", "content": f"{name}?"},
            {"role": "assistant", "content": "", "tool_calls": [tool_call(name)]},
            {"role": "tool", "content": word},
            {"role": "assistant", "content": "ok"},
        ]
        for name, word in OUTCOMES.items()
    ]
    teach(tmp_path / "student", conversations, schemas(tmp_path, *OUTCOMES))
    steps = run(tmp_path, "bad")
    assert len(steps) == 2
    results = {
        message["name"]: message["content"]
        for record in traces(tmp_path, "bad")
        for message in record["messages"]
        if message["role"] == "tool" and message["name"] in OUTCOMES
    }
    assert results.keys() == OUTCOMES.keys()
    for name, word in OUTCOMES.items():
        assert word in results[name], (name, results[name])
    for record in traces(tmp_path, "bad"):
        names = [message["name"] for message in record["messages"] if message["role"] == "tool"]
        assert record["tool_errors"] == sum(name not in ("flood", "odd", "long") for name in names)
    for metrics in steps:
        assert metrics["rollouts/failed"] == 0
        assert metrics["tools/errors"] > 0
    logs = tmp_path / "runs" / "bad" / "logs"
    assert sum(file.stat().st_size for file in logs.iterdir()) < 64 * 2**20
