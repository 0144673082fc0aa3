"""The finding codes of a project's data, models and machine. A code keeps its meaning for ever.

RN201 to RN214 are about single rows and come from rnow_core.data, RN231 and RN232 from rnow_core.env.
"""

from __future__ import annotations

from typing import Final

CODES: Final = {
    "RN220": "the chat template refuses a row",
    "RN221": "a prompt that fills the context window",
    "RN222": "prompts that leave less room than rollout.max_tokens",
    "RN223": "held-out rows that are also training rows",
    "RN224": "a row names a teacher that the config does not have",
    "RN226": "a prompt with ids that the student has no weights for",
    "RN227": "too few rows for data.val_split",
    "RN228": "a conversation that is longer than the context window",
    "RN230": "a row names a reward that rewards.py does not have",
    "RN236": "a row names a tool that the project does not have",
    "RN237": "tools, and episodes of a single turn",
    "RN238": "which rows are agentic",
    "RN239": "tools outside of a sandbox",
    "RN240": "a container that no tool uses",
    "RN241": "two tools of one name",
    "RN242": "sandboxes that are switched off",
    "RN243": "tools that are read in a container",
    "RN244": "a tool that closes the network of others",
    "RN245": "calls of tools that a row does not offer",
    "RN301": "not the folder of a causal language model",
    "RN302": "a model that cannot be read from the Hugging Face hub",
    "RN303": "a tokenizer or chat template that is missing or broken",
    "RN304": "weights that are missing or cut off",
    "RN305": "not the folder of an adapter",
    "RN306": "a tokenizer with more ids than the student has rows",
    "RN310": "a teacher with another tokenizer",
    "RN311": "a teacher with fewer rows than the tokenizer has ids",
    "RN312": "a teacher with a smaller context window than conversations may take",
    "RN313": "a teacher whose own chat template begins replies in another way",
    "RN314": "rollout.reasoning_mode with a chat template that does not know it",
    "RN315": "a chat template without an end of turn",
    "RN316": "a teacher that is the student's own folder",
    "RN317": "a student whose tool calls cannot be read",
    "RN320": "a context window beyond what the student was made for",
    "RN401": "Python packages that the run needs are not installed",
    "RN402": "no place for sandboxed tools",
    "RN403": "a secret that is not set",
    "RN404": "an MCP server whose tools cannot be had",
    "RN410": "more memory than the machine has",
    "RN411": "more disk than is free",
    "RN412": "roles that this machine's GPUs cannot take as configured",
}
"""Code -> what it stands for. RN2xx: data; RN3xx: models; RN4xx: the machine."""
