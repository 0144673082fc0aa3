"""The pages about the config say what the schema says."""

import json
import re
from pathlib import Path

import pytest

from rnow_core.config.availability import MISSING
from rnow_core.config.codes import CODES
from rnow_core.config.load import load_config
from rnow_core.config.schema_tree import all_keys, describe, keys_of, node_at
from rnow_core.config.spellings import IGNORED, RENAMED

DOCS = Path(__file__).parents[3] / "docs"


def rows(page):
    lines = (DOCS / page).read_text().splitlines()
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in lines if line.startswith("|")]


def test_config_page_lists_every_key_with_its_default_and_meaning():
    table = {row[0]: row[1:] for row in rows("config.md")}
    for path in all_keys():
        if keys_of(path):
            continue
        node = node_at(path)
        default = f"`{json.dumps(node['default'])}`" if "default" in node else "required"
        shown, _, meaning = table[f"`{'.'.join(path)}`"]
        assert (shown, meaning) == (default, describe(path)), path
    assert {code: table[code][0] for code in CODES} == CODES


def test_the_example_of_the_config_page_is_a_config_that_this_version_can_run(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "config.md").read_text(), re.DOTALL)
    (tmp_path / "config.yml").write_text(example)
    loaded = load_config(tmp_path / "config.yml")
    assert loaded.findings == ()
    assert loaded.unavailable() == []


@pytest.mark.parametrize("row", [row for row in rows("mapping.md") if row[1].startswith("`")])
def test_mapping_page_names_keys_that_exist(row):
    key = tuple(row[1].strip("`").split("."))
    assert key in all_keys()
    for other in re.findall(
        r"`((?:algorithm|teacher|data|eval|trainer|rollout|logging|model)\.\w+)`", " ".join(row[1:])
    ):
        assert tuple(other.split(".")) in all_keys()


def test_mapping_page_names_every_older_key():
    older = {row[0] for row in rows("mapping.md")}
    names = {name for cell in older for name in re.findall(r"`([^`]+)`", cell)}
    assert {f"{renamed.section}.{renamed.old}" for renamed in RENAMED} <= names
    assert {f"{ignored.section}.{ignored.key}".strip(".") for ignored in IGNORED} <= names


def test_the_table_of_missing_features_has_no_key_twice():
    paths = [path for path, _, _ in MISSING]
    assert len(paths) == len(set(paths))
