"""Whatever a file says, the answer is a config or findings, each with a place."""

import json
from copy import deepcopy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnow_core.config.load import load_config
from rnow_core.config.schema import Config, resolved
from rnow_core.config.schema_tree import all_keys, choices
from rnow_core.errors import FindingsError

ODD = st.sampled_from(
    [None, True, 0, 1, -1, 2, 1.5, 10**30, "", "self", "x", [], [1], ["a", "b"], {}, {"path": "y"}]
)
NESTED = st.sampled_from([[None], [[]], [{}], [{"path": 3}], {"a": {"b": []}}, [{"dataset_type": "rl"}], [3]])


@st.composite
def settings_of_a_config(draw):
    path = draw(st.sampled_from(all_keys()))
    words = choices(path)
    return path, draw(st.one_of(ODD, NESTED, st.sampled_from(words) if words else ODD))


def put(data, path, value):
    for part in path[:-1]:
        if not isinstance(data.get(part), dict):
            data[part] = {}
        data = data[part]
    data[path[-1]] = value


def outcome(path, overrides=()):
    """The loaded config, or None with the findings that refuse it: never anything else."""
    try:
        loaded = load_config(path, overrides)
    except FindingsError as refused:
        errors = [finding for finding in refused.findings if finding.severity == "error"]
        return None, errors or ["refused without a reason"]
    return loaded, loaded.findings


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(settings_of_a_config(), max_size=5))
def test_any_values_give_a_config_or_findings(tmp_path, chosen):
    data = {"dataset_type": "distill", "model": {"path": "./x"}, "teacher": {"path": "./y"}}
    for path, value in chosen:
        put(data, path, deepcopy(value))  # the sampled object is shared, and putting below it changes it
    file = tmp_path / "config.yml"
    file.write_text(json.dumps(data, indent=1))
    loaded, findings = outcome(file)
    assert all(finding.line and finding.col and finding.message for finding in findings)
    if loaded is None:
        return
    assert all(finding.code == "RN140" for finding in loaded.unavailable())
    assert all(isinstance(stage, Config) for stage in loaded.config.stage_configs())
    again = Config.model_validate(json.loads(json.dumps(resolved(loaded.config))))
    assert again.weights == loaded.config.weights
    assert resolved(again) == resolved(loaded.config)


PARTS = st.sampled_from(
    ["teacher", "data", "train_file", "stages", "0", "1", "path", "²", "model", "", "agentic", "x"]
)
VALUES = st.sampled_from(["1", "", "[", "[{path: a}, 2]", "{path: y}", "a: b: c", "*", "null", "'"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(PARTS, max_size=4), st.sampled_from(["=", ""]), VALUES), max_size=4))
def test_any_overrides_give_a_config_or_findings(project, chosen):
    overrides = [".".join(path) + equals + value for path, equals, value in chosen]
    loaded, findings = outcome(project.path, overrides)
    assert all(finding.message for finding in findings)
    assert loaded is None or len(loaded.changes) <= len(overrides)
