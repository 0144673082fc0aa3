"""The finding codes of config.yml. A code keeps its meaning for ever; a new meaning gets a new code."""

from __future__ import annotations

from typing import Final

CODES: Final = {
    "RN100": "the file cannot be read",
    "RN101": "unknown key",
    "RN102": "a required key is missing",
    "RN103": "a value of the wrong kind or outside its bounds",
    "RN104": "not valid YAML",
    "RN105": "a key is written twice",
    "RN106": "an override on the command line cannot be applied",
    "RN107": "an older spelling, accepted",
    "RN108": "a key without effect here, ignored",
    "RN109": "an older and the current spelling of the same key",
    "RN110": "`dataset_type: distill` without a teacher",
    "RN111": "`dataset_type: rl` together with a key that needs a teacher",
    "RN112": "two spellings of the loss weights",
    "RN113": "weights that leave nothing to learn from",
    "RN114": "a group of one where rewards are compared within a group",
    "RN115": "a setting of the sampled signal together with a divergence, or the other way round",
    "RN116": "rewards are switched off and needed",
    "RN117": "a teacher that is the student's base weights without an adapter to take off",
    "RN118": "full fine-tuning together with a key that needs an adapter",
    "RN119": "teachers that cannot be told apart",
    "RN120": "unsupported teacher model: only an API, no logprobs of given tokens",
    "RN121": "a known model id in another case",
    "RN122": "a student whose weights are not published",
    "RN123": "two sources for one thing",
    "RN124": "bounds or lengths that exclude each other",
    "RN125": "an evaluation without a file to evaluate on",
    "RN126": "a stage that cannot go on from the adapter of the stage before it",
    "RN127": "an early end without what it is measured by",
    "RN128": "a rollback without evaluations to go back to",
    "RN129": "weights in 4 bits where the run has no say about them",
    "RN130": "what unequal weights train towards",
    "RN131": "`kl_penalty_coef` in pure distillation",
    "RN132": "sampling that biases the estimate",
    "RN133": "a key without effect in this combination",
    "RN134": "a teacher that equals the student at the start",
    "RN140": "not available yet",
}
"""Code -> what it stands for. RN1xx: config.yml."""
