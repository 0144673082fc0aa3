"""What tests of `rnow generate` share: prompts, tools, ways to start it."""

import json
import subprocess
import sys

from rnow_core.jobs.generate import GenerateRequest, generate
from rnow_core.stop import StopSignal

TOOLS = '''
from rnow.core import tool

@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: one
        b: the other
    """
    with open("calls.txt", "a") as calls:
        calls.write(f"{a}+{b}\\n")
    return a + b
'''


def prompts_file(folder, count):
    path = folder / "prompts.jsonl"
    rows = [{"prompt": f"question {i}", "metadata": {"expected_answer": str(i)}} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def asked_of(row):
    return next(message["content"] for message in row["messages"] if message["role"] == "user")


def request_of(folder, server, **changes):
    given = {
        "source": folder / "prompts.jsonl",
        "output": folder / "train.jsonl",
        "tools": None,
        "base_url": server.url,
        "key_env": None,
        "concurrency": 8,
        "timeout": 20.0,
        **changes,
    }
    return GenerateRequest(**given)


def run(folder, server, stop=None, emit=lambda event: None, **changes):
    return generate(request_of(folder, server, **changes), emit, stop or StopSignal())


def add_call(number, arguments):
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": "add", "arguments": arguments},
    }


def three_turns(prompt, turn, body):
    if turn < 2:
        arguments = json.dumps({"a": int(prompt.split()[1]), "b": turn})
        return {"role": "assistant", "content": None, "tool_calls": [add_call(turn, arguments)]}
    results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
    return {"role": "assistant", "content": " and ".join(results)}


def command(folder, server, *options):
    return [
        *(sys.executable, "-m", "rnow", "generate", "prompts.jsonl", "--base-url", server.url),
        *("--key-env", "none", *options),
    ]


def start(folder, server, *options):
    return subprocess.Popen(
        command(folder, server, *options),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
