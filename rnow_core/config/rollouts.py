"""The sections that say how replies come about: rollout, eval, sandbox."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rnow_core.config.section import Count, OptionalFiles, PlannedCount, Seconds, Section, Text


class RolloutConfig(Section):
    """Sampling, turns and limits."""

    engine: Literal["auto", "vllm", "hf"] = Field(
        default="auto", description="auto = vllm when it is importable and a GPU is there, else hf."
    )
    url: Text | None = Field(default=None, description="A running vLLM server that samples.")
    max_turns: Count | None = Field(
        default=None, description="Replies of the student in an episode; null = 1, or 10 when tools resolve."
    )
    max_tokens: Count = Field(default=2048, description="Tokens of one reply.")
    max_context_window: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="Tokens of a whole conversation; null = the model's own limit."
    )
    termination_policy: Literal["last_tool", "max_turns"] = Field(
        default="last_tool",
        description="Stop at the first reply without a tool call, or always at max_turns.",
    )
    temperature: float = Field(default=1.0, gt=0, description="Other values than 1 bias the estimate.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Other values than 1 bias the estimate.")
    tool_timeout: Seconds = Field(default=60.0, description="Seconds for one tool call.")
    reward_timeout: Seconds = Field(default=60.0, description="Seconds for one reward.")
    max_tool_response: Count | None = Field(
        default=None, description="Tokens of one tool result; null = all."
    )
    deadline: Seconds | None = Field(
        default=None, description="Seconds for a whole rollout; null = no limit."
    )
    max_malformed_calls: int = Field(
        default=3, ge=0, description="Malformed tool calls of an episode; one more ends it."
    )
    tool_call_format: (
        Literal["hermes", "qwen3_coder", "llama3_json", "mistral", "deepseek", "response_template"] | None
    ) = Field(default=None, description="How the student writes tool calls; null = as its template does.")
    mcp_url: OptionalFiles = Field(
        default=None, description="MCP servers whose tools are offered: a URL or a list."
    )
    reasoning_mode: Literal["disabled", "none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        default=None,
        description="Reasoning option passed to the chat template; null = the template's default.",
    )
    mask_truncated: bool = Field(default=False, description="Do not train the tokens of truncated replies.")

    def turns(self, tools: bool) -> int:
        """`max_turns` of an episode, given whether tools resolve for its row."""
        return self.max_turns or (10 if tools else 1)


class EvalConfig(Section):
    """Evaluation on held-out rows."""

    file: OptionalFiles = Field(
        default=None, description="Rows to evaluate on: another name of data.val_file."
    )
    name: Text | None = Field(
        default=None,
        description="Name in metrics (eval/<name>/...); null = the file's name without its ending.",
    )
    batch_size: Count | None = Field(default=None, description="Prompts at once; null = as many as fit.")
    group_size: Count = Field(default=8, description="Samples of each prompt.")
    pass_at: Annotated[list[Count], Field(min_length=1)] = Field(
        default=[1], description="The k of each pass@k to report."
    )
    pass_threshold: float = Field(
        default=1.0, description="A sample passes when its total reward is at least this."
    )
    max_tokens: Count | None = Field(
        default=None, description="Tokens of one reply; null = rollout.max_tokens."
    )
    stop_at_gap_closed: float | None = Field(
        default=None,
        gt=0,
        description="End the run when so many percent of the gap to the teacher are closed; null = never.",
    )


class SandboxConfig(Section):
    """Containers for tools and rewards."""

    engine: Literal["auto", "docker", "podman", "modal", "none"] = Field(
        default="auto",
        description=(
            "The container program; auto = docker or podman, the first that answers; modal = sandboxes of the "
            "service Modal; none = sandboxed tools run as plain ones."
        ),
    )
    scope: Literal["rollout", "run"] = Field(
        default="rollout", description="A container for each rollout, or one that the run shares."
    )
    network: Literal["auto", "open", "none"] = Field(
        default="auto",
        description=(
            "auto = the internet for rows with `docker`, private addresses closed; open = those too; none = closed."
        ),
    )
    memory: str = Field(
        default="2g",
        pattern=r"^[1-9]\d*[kmg]$",
        examples=["512m", "2g"],
        description="Memory of a container.",
    )
    cpus: float = Field(default=1.0, gt=0, description="CPUs of a container.")
    pids: Count = Field(default=256, description="Processes in a container.")
    secrets: list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$", examples=["API_KEY"])]] = Field(
        default=[], description="Names of environment variables that containers may see."
    )
    max_containers: PlannedCount = Field(
        default=None, description="Containers at once; null = from the free memory."
    )
