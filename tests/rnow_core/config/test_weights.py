import itertools

import pytest

from rnow_core.config.schema import Config, resolved
from rnow_core.config.weights import Weights, resolve_weights


def config(algorithm, dataset_type="distill", **teacher):
    data = {"dataset_type": dataset_type, "model": {"path": "x"}, "algorithm": algorithm}
    if dataset_type == "distill":
        data["teacher"] = {"path": "y", **teacher}
    return Config.model_validate(data)


@pytest.mark.parametrize(
    ("algorithm", "teacher", "weights"),
    [
        ({}, {}, (0, 0.1, 0.1)),
        ({"kl_penalty_coef": 0.3}, {}, (0, 0.3, 0.3)),
        ({"adv_tau": 0}, {}, (0, 0.5, 0.5)),
        ({"teacher_tau": 1}, {}, (0.5, 1, 0.5)),
        ({"adv_tau": 0.0, "teacher_tau": 1.0, "student_tau": 0.5}, {}, (0, 1, 0.5)),
        ({}, {"context": "Think.\n"}, (0.5, 0.5, 0.5)),
        ({}, {"context_file": "context.txt"}, (0.5, 0.5, 0.5)),
        ({"adv_tau": 0, "teacher_tau": 1, "student_tau": 1}, {"context": "x"}, (0, 1, 1)),
        ({"kl_penalty_coef": 0.2}, {"context": "x"}, (0, 0.2, 0.2)),
    ],
)
def test_distill_weights_are_those_of_the_table(algorithm, teacher, weights):
    assert resolve_weights(config(algorithm, **teacher)) == Weights(*weights)


def test_rl_has_only_the_task_and_sft_nothing():
    assert config({}, "rl").weights == Weights(1, 0, 0)
    assert config({"adv_tau": 0.5}, "rl").weights == Weights(0.5, 0, 0)
    assert config({}, "sft").weights == Weights(0, 0, 0)


def test_a_resolved_config_means_the_same_when_it_is_loaded_again():
    choices = [None, 0.0, 0.5, 1.0]
    for taus in itertools.product(choices, choices, choices):
        first = config(dict(zip(("adv_tau", "teacher_tau", "student_tau"), taus, strict=True)))
        again = Config.model_validate(resolved(first))
        assert again.weights == first.weights
        assert resolved(again) == resolved(first)
    b = config({"kl_penalty_coef": 0.7})
    assert Config.model_validate(resolved(b)).weights == Weights(0, 0.7, 0.7)
