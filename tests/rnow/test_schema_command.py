import json

from rnow_core.config.schema import json_schema


def test_the_schema_is_printed_as_json(rnow):
    done = rnow("schema")
    assert done.code == 0
    assert json.loads(done.out) == json.loads(json.dumps(json_schema()))
    assert rnow("schema", "--json").out == done.out


def test_a_field_is_explained(rnow):
    done = rnow("schema", "--field", "trainer.learning_rate")
    assert done.code == 0
    assert "expected: a number" in done.out
    assert "default: 0.0001" in done.out
    facts = json.loads(rnow("schema", "--field", "trainer.learning_rate", "--json").out)
    assert facts["default"] == 0.0001
    assert facts["required"] is False
    assert facts["keys"] == {}


def test_a_section_lists_its_keys(rnow):
    shown = rnow("schema", "--field", "algorithm").out
    facts = json.loads(rnow("schema", "--field", "algorithm", "--json").out)
    assert {"loss_fn", "teacher_tau", "clip_min"} <= set(facts["keys"])
    assert all(name in shown and text in shown for name, text in facts["keys"].items())


def test_a_required_key_has_no_default(rnow):
    facts = json.loads(rnow("schema", "--field", "model.path", "--json").out)
    assert facts["required"] is True
    assert "default" not in facts
    assert "the key is required" in rnow("schema", "--field", "dataset_type").out


def test_a_key_of_a_list_element_is_found(rnow):
    assert "expected" in rnow("schema", "--field", "teacher.path").out
