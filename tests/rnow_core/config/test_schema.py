import json

import pytest

from rnow_core.config.schema import Config, json_schema, merge, resolved
from rnow_core.config.schema_tree import all_keys, describe, node_at

DATA = {"dataset_type": "distill", "model": {"path": "x"}, "teacher": {"path": "y"}}


def test_every_key_has_a_description_and_a_default_or_is_required():
    for path in all_keys():
        assert describe(path), path
    required = {path for path in all_keys() if "default" not in node_at(path) and "$ref" not in node_at(path)}
    assert required == {("dataset_type",), ("model", "path"), ("teacher", "path")}


def test_the_json_schema_is_draft_2020_12_and_strict():
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(schema)) == schema
    assert schema["required"] == ["dataset_type", "model"]
    objects = [schema, *schema["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in objects)
    reference = {"$ref": "#/$defs/TeacherConfig"}
    assert schema["properties"]["teacher"]["anyOf"][:2] == [reference, {"items": reference, "type": "array"}]


def test_resolved_is_json_with_nulls_and_loads_again():
    config = Config.model_validate({**DATA, "$schema": "./s.json", "data": {"val_file": "v.jsonl"}})
    data = json.loads(json.dumps(resolved(config)))
    assert data["trainer"]["max_steps"] is None
    assert data["algorithm"]["teacher_tau"] == 0.1
    assert data["model"]["qlora_alpha"] == 64
    assert "$schema" not in data
    assert resolved(Config.model_validate(data)) == data


def test_eval_file_is_another_name_of_val_file():
    by_data = Config.model_validate({**DATA, "data": {"val_file": "held/val.jsonl"}})
    by_eval = Config.model_validate({**DATA, "eval": {"file": ["held/val.jsonl"]}})
    assert by_data.eval_files == by_eval.eval_files == ["held/val.jsonl"]
    assert by_data.eval_name == by_eval.eval_name == "val"
    named = Config.model_validate({**DATA, "eval": {"file": "x.jsonl", "name": "aime"}})
    assert named.eval_name == "aime"
    assert Config.model_validate(DATA).eval_files == []


def test_turns_depend_on_tools_unless_set():
    rollout = Config.model_validate(DATA).rollout
    assert (rollout.turns(tools=False), rollout.turns(tools=True)) == (1, 10)
    four = Config.model_validate({**DATA, "rollout": {"max_turns": 4}}).rollout
    assert (four.turns(tools=False), four.turns(tools=True)) == (4, 4)


def test_merge_goes_into_mappings_and_replaces_the_rest():
    assert merge({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": {"e": 1}}) == {
        "a": {"b": 1, "c": [2]},
        "d": {"e": 1},
    }


def test_a_config_is_frozen():
    config = Config.model_validate(DATA)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


def test_stages_are_overlays_and_dependent_defaults_follow():
    stages = [{"dataset_type": "sft", "model": {"qlora_rank": 8}}, {"trainer": {"max_steps": 3}}]
    config = Config.model_validate({**DATA, "trainer": {"learning_rate": 1e-3}, "stages": stages})
    first, second = config.stage_configs()
    assert (first.dataset_type, first.model.qlora_rank, first.model.qlora_alpha) == ("sft", 8, 16)
    assert (second.dataset_type, second.model.qlora_rank, second.trainer.max_steps) == ("distill", 32, 3)
    assert first.trainer.learning_rate == second.trainer.learning_rate == 1e-3
    assert first.stages == second.stages == []
    assert Config.model_validate(DATA).stage_configs() == [Config.model_validate(DATA)]
