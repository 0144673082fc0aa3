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
    "RN229": "a held-out conversation with rewards and without a prompt to sample for",
    "RN230": "a row names a reward that rewards.py does not have",
    "RN233": "a row for a built-in verifier without an answer that it can use",
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
    "RN260": "a teacher context that cannot be read or rendered",
    "RN261": "a prompt and a reply that would be cut into tokens across their seam",
    "RN262": "a teacher context that runs into the text behind it",
    "RN263": "a teacher context that leaves too little of what the teacher reads",
    "RN264": "a teacher context that is specific to its row",
    "RN265": "a teacher context that changes how replies begin",
    "RN266": "a long teacher context that a server computes for every rollout",
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
    "RN318": "a student whose files and whose chat template end a reply with different tokens",
    "RN319": "a teacher whose own chat template marks turns in another way",
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
