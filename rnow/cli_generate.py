"""The options of `rnow generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rnow_core.errors import UsageError

MODEL = "openai/gpt-4o-mini"
OPENROUTER = "https://openrouter.ai/api/v1"


def _option(
    *names: str, text: str, metavar: str | None = None, least: float | None = None
) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, metavar=metavar, min=least, help=text)
    return option


Source = Annotated[
    Path | None, typer.Argument(metavar="INPUT", help="Prompts: .jsonl, or one a line.", show_default=False)
]
Output = Annotated[Path, _option("-o", "--output", text="The rows.", metavar="FILE")]
Tools = Annotated[str, _option("-t", "--tools", text="The tools; none = no tools.", metavar="FILE")]
Model = Annotated[str, _option("-m", "--model", text="The teacher.")]
System = Annotated[str | None, _option("-s", "--system", text="System prompt of rows without one.")]
Num = Annotated[int | None, _option("-n", "--num", text="Only the first prompts.", least=1)]
Concurrency = Annotated[
    int, _option("-c", "--concurrency", text="Requests at once; fewer while the server says so.", least=1)
]
MaxTokens = Annotated[int, _option("--max-tokens", text="Tokens of one reply.", least=1)]
MaxTurns = Annotated[int, _option("--max-turns", text="Replies of one rollout.", least=1)]
Temperature = Annotated[float, _option("--temperature", text="Sampling temperature.", least=0)]
BaseUrl = Annotated[str, _option("--base-url", text="An OpenAI-compatible server.", metavar="URL")]
KeyEnv = Annotated[
    str, _option("--key-env", text="Variable that holds the API key; none = no key.", metavar="NAME")
]
Local = Annotated[
    bool,
    typer.Option(
        "--local", help="Run --model here, a folder or Hugging Face id, instead of asking a server."
    ),
]
LocalEngine = Annotated[
    Literal["hf", "vllm"] | None,
    _option(
        "--engine",
        text="What runs it [default: vllm where it is installed and a GPU is there].",
        metavar="hf|vllm",
    ),
]
Provider = Annotated[
    str | None, _option("--provider", text="Only these providers of OpenRouter.", metavar="A,B")
]
Price = Annotated[
    str | None,
    _option("--price", text="Dollars of a million tokens, where the server is silent.", metavar="IN,OUT"),
]
MaxCost = Annotated[float | None, _option("--max-cost", text="Dollars, all sessions together.", least=0)]
MaxMinutes = Annotated[float | None, _option("--max-minutes", text="Minutes of this session.", least=0)]
DryRun = Annotated[
    int | None, _option("--dry-run", text="Answer so many prompts and forecast the rest.", least=1)
]
KeepReasoning = Annotated[
    bool, typer.Option("--keep-reasoning", help="Keep the teacher's thoughts, as reasoning_content.")
]
Timeout = Annotated[float, _option("--timeout", text="Seconds of one request.", least=0.1)]
GiveUp = Annotated[float, _option("--give-up", text="Minutes without a success that end it.", least=0)]
BestOf = Annotated[
    int,
    _option("--best-of", text="Answers of each prompt; rewards.py chooses.", metavar="N", least=1),
]
MinReward = Annotated[
    float | None, _option("--min-reward", text="Reject answers with a lower reward.", metavar="X")
]
Dedup = Annotated[bool, typer.Option("--dedup", help="Answer equal prompts once.")]
EvalFile = Annotated[
    Path | None,
    _option(
        "--eval-file", text="Look for its rows among the prompts [default: config.yml's].", metavar="FILE"
    ),
]
DropOverlap = Annotated[
    bool, typer.Option("--drop-overlap", help="Reject prompts that are in the eval file.")
]
Student = Annotated[
    str | None,
    _option(
        "--student",
        text="Who will read the rows; none = not checked [default: config.yml's].",
        metavar="MODEL",
    ),
]
Show = Annotated[
    int | None,
    _option("--show", text="Generate nothing: show N rows of -o with the loss mask.", metavar="N", least=1),
]
Full = Annotated[bool, typer.Option("--full", help="With --show: long prompts and tool results whole.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def generate(
    source: Source = None,
    output: Output = Path("train.jsonl"),
    tools: Tools = "tools.py",
    model: Model = MODEL,
    system: System = None,
    num: Num = None,
    concurrency: Concurrency = 20,
    max_tokens: MaxTokens = 2048,
    max_turns: MaxTurns = 10,
    temperature: Temperature = 0.7,
    base_url: BaseUrl = OPENROUTER,
    key_env: KeyEnv = "OPENROUTER_API_KEY",
    local: Local = False,
    engine: LocalEngine = None,
    provider: Provider = None,
    price: Price = None,
    max_cost: MaxCost = None,
    max_minutes: MaxMinutes = None,
    dry_run: DryRun = None,
    keep_reasoning: KeepReasoning = False,
    timeout: Timeout = 300.0,
    give_up: GiveUp = 10.0,
    best_of: BestOf = 1,
    min_reward: MinReward = None,
    dedup: Dedup = False,
    eval_file: EvalFile = None,
    drop_overlap: DropOverlap = False,
    student: Student = None,
    show: Show = None,
    full: Full = False,
    as_json: Json = False,
) -> int:
    """Let a teacher answer prompts with the project's tools, as data for SFT.

    Each prompt ends once: in train.jsonl, or in rejected.jsonl with the reason. However it is stopped, the same
    command goes on where it was; what was answered is not asked again.
    """
    if show:
        from rnow.commands.show_rows import show_rows

        return show_rows(output, show, tools, student, full, as_json)
    from rnow.commands import generate as command

    limits = command.Limits(max_cost, max_minutes, dry_run, timeout, give_up)
    sampling = command.Sampling(model, max_tokens, max_turns, temperature, keep_reasoning)
    server = command.Server(base_url, key_env, provider, price, local, engine)
    files = command.Files(_required(source), output, tools, system, num)
    quality = command.Quality(best_of, min_reward, dedup, eval_file, drop_overlap, student)
    return command.generate(files, sampling, server, limits, quality, concurrency, as_json)


def _required(source: Path | None) -> Path:
    """Only --show needs no prompts."""
    if source is None:
        raise UsageError("Missing argument 'INPUT'.", "See: rnow generate --help")
    return source
