"""Every configuration that the requirement documents show loads."""

import json
import re
from pathlib import Path

import pytest

from rnow_core.config.load import load_config
from rnow_core.config.schema import merge
from rnow_core.config.yaml_file import parse

TESTS = Path(__file__).parents[2]
FACTS = sorted((TESTS / "data" / "documented_configs").glob("*.yml"))
DOCUMENTS = sorted((TESTS.parent.parent / "shared" / "requirements").glob("*.txt"))
BASE = {"dataset_type": "distill", "model": {"path": "Qwen/Qwen3-8B"}, "teacher": {"path": "Qwen/Qwen3-32B"}}


def data_of(text):
    parsed = parse(text)
    assert not parsed.faults
    return parsed.data


@pytest.mark.parametrize("facts", FACTS, ids=lambda path: path.stem)
def test_a_documented_config_loads_and_says_what_was_written(facts, tmp_path):
    data = data_of(facts.read_text())
    path = tmp_path / "config.yml"
    path.write_text(json.dumps(merge(BASE, data)))
    loaded = load_config(path)
    dumped = loaded.config.model_dump(mode="json")
    for section, values in data.items():
        if not isinstance(values, dict):
            assert dumped[section] == values
            continue
        there = dumped[section][0] if section == "teacher" else dumped[section]
        for key, value in values.items():
            assert there[key] == ([value] if key == "train_file" else value)


def test_the_files_hold_every_yaml_block_of_the_documents():
    known = [data_of(path.read_text()) for path in FACTS]
    assert len(known) == 5
    for document in DOCUMENTS:
        for block in re.findall(r"^```yaml\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE):
            assert data_of(block) in known, f"{document.name}:\n{block}"
