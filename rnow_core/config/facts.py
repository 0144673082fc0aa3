"""What is known of model names without asking anyone: API-only families, and the right case of ids."""

from __future__ import annotations

import re
from typing import Final

API_ONLY: Final = {
    "OpenAI": r"openai/(gpt-[3-9]|o[1-9]\b|chatgpt|codex)|gpt-[3-9]|chatgpt|o[1-9](-mini|-pro|-preview|$)",
    "Anthropic": r"anthropic/|claude-",
    "Google": r"google/(gemini|palm|learnlm)|gemini-",
    "xAI": r"x-ai/|grok-[2-9]",
    "Perplexity": r"perplexity/",
    "Amazon": r"amazon/nova|amazon\.nova",
    "Cohere": r"cohere/command",
}
"""Maker -> ids whose weights are not published. `openai/gpt-oss-*` and `google/gemma-*` are open models."""

KNOWN_IDS: Final = (
    *(f"Qwen/Qwen3-{size}" for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B", "30B-A3B", "235B-A22B")),
    *(f"Qwen/Qwen3-{size}-Base" for size in ("0.6B", "1.7B", "4B", "8B", "14B", "30B-A3B")),
    *(
        f"Qwen/Qwen3-{size}-{kind}-2507"
        for size in ("4B", "30B-A3B", "235B-A22B")
        for kind in ("Instruct", "Thinking")
    ),
    *(
        f"Qwen/Qwen2.5-{size}{kind}"
        for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B")
        for kind in ("", "-Instruct")
    ),
    *(f"meta-llama/Llama-3.2-{size}{kind}" for size in ("1B", "3B") for kind in ("", "-Instruct")),
    *(f"meta-llama/Llama-3.1-{size}{kind}" for size in ("8B", "70B", "405B") for kind in ("", "-Instruct")),
    "meta-llama/Llama-3.3-70B-Instruct",
    *(f"deepseek-ai/DeepSeek-{name}" for name in ("V3", "V3.1", "V3.1-Base", "R1")),
    *(f"google/gemma-3-{size}-{kind}" for size in ("1b", "4b", "12b", "27b") for kind in ("it", "pt")),
    "mistralai/Mistral-7B-Instruct-v0.3",
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    "moonshotai/Kimi-K2-Instruct",
    "moonshotai/Kimi-K2-Thinking",
    "openai/gpt-oss-20b",
    "openai/gpt-oss-120b",
)
"""Ids as the Hugging Face hub spells them; only used to notice another case of the same letters."""

_BY_LOWER = {name.lower(): name for name in KNOWN_IDS}


def api_maker(name: str) -> str | None:
    """Whose API this model is behind when its weights are not published, else None."""
    bare = name.lower().removeprefix("openrouter/")
    return next((maker for maker, pattern in API_ONLY.items() if re.match(pattern, bare)), None)


def right_case(name: str) -> str | None:
    """The id that this is another case of, or None when it is spelled right or not known."""
    known = _BY_LOWER.get(name.lower())
    return known if known != name else None


def looks_like_a_path(name: str) -> bool:
    """True for `./teacher`, `/models/x`, `~/x`, `../x`: never an id on the hub."""
    return name.startswith((".", "/", "~")) or name.removeprefix("openrouter/").count("/") > 1 or "\\" in name
