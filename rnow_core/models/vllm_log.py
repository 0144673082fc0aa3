"""What a server's log says about its end: the last lines, and the fix where the cause is a known one."""

from __future__ import annotations

import re
from pathlib import Path

from rnow_core.models.vllm_command import ServerSpec

TAIL_BYTES = 65536
TAIL_LINES = 16
EXCEPTION_LINES = 4

_EXCEPTION = re.compile(r"\b\w*(Error|Exception): ")
# What native libraries print on every exit, long enough to hide what happened.
_NOISE = re.compile(
    r"nanobind|fd limit errors| - leaked |skipped remainder|resource_tracker|^\s*warnings\.warn\("
)

# vLLM's words for common causes -> what to do; the first that is found counts.
_CAUSES = (
    (
        r"unrecognized arguments: (.+)",
        "this vLLM does not know {0}: install a newer one, 0.32 has it",
    ),
    (
        r"Free memory on device .* is less than desired",
        "another process holds memory of this GPU: end it, choose another GPU, or let the server use less of it",
    ),
    (
        r"No available memory for the cache blocks|KV cache is needed, which is larger than",
        "too little GPU memory is left for the KV cache: use a smaller rollout.max_context_window or more GPUs",
    ),
    (
        r"(?i)CUDA out of memory|OutOfMemoryError",
        "the GPU has too little memory: use a smaller model, rollout.max_context_window, or more GPUs",
    ),
    (
        r"(?i)User-specified max_model_len .*greater than",
        "rollout.max_context_window is larger than what the model was made for: lower it",
    ),
    (
        r"(?i)not a valid model identifier|Repo id must be|does not appear to have a file named"
        r"|Can't load the configuration|Invalid repository ID|couldn't connect to",
        "check the model's path: a folder with config.json and weights, or a Hugging Face id within reach",
    ),
    (
        r"Unsupported CPU attention configuration: head_dim=(\d+)",
        "vLLM's CPU kernels have no attention for heads of size {0}: set rollout.engine: hf",
    ),
    (
        r"(?i)architectures .* (are )?not supported",
        "vLLM cannot serve this architecture: set rollout.engine: hf",
    ),
)


def tail(log_file: Path, start: int = 0) -> str:
    """The end of the log behind byte `start`, without blank lines and noise; empty when there is no log."""
    try:
        with log_file.open("rb") as log:
            log.seek(max(start, log.seek(0, 2) - TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip() and not _NOISE.search(line))


def last_lines(text: str, count: int = TAIL_LINES) -> str:
    """The last `count` lines, indented, behind the last exceptions that stand further up."""
    lines = text.splitlines()
    earlier = [line for line in lines[:-count] if _EXCEPTION.search(line)][-EXCEPTION_LINES:]
    shown = [*earlier, "...", *lines[-count:]] if earlier else lines[-count:]
    return "\n".join(f"    {line[:300]}" for line in shown)


def hint(text: str, spec: ServerSpec) -> str:
    """How to repair what the log complains about, or where to read on."""
    for pattern, advice in _CAUSES:
        if found := re.search(pattern, text):
            return advice.format(*found.groups())
    return f"read {spec.log_file}"
