import json
import math
from pathlib import Path

import numpy as np
import pytest

from rnow_core.errors import Finding
from rnow_core.track.jsonable import dumps


def test_non_finite_floats_become_null_at_any_depth():
    text = dumps({"a": [math.nan, {"b": math.inf}], "c": (-math.inf, 1.5)})
    assert json.loads(text) == {"a": [None, {"b": None}], "c": [None, 1.5]}


def test_the_types_that_runs_hold():
    data = {"path": Path("a/b"), "set": {2, 1}, "scalar": np.float32(0.5), "nan": np.float64("nan"), 3: "key"}
    assert json.loads(dumps(data)) == {"path": "a/b", "set": [1, 2], "scalar": 0.5, "nan": None, "3": "key"}


def test_dataclasses_become_objects():
    finding = Finding("RN101", "error", "wrong", line=3)
    assert json.loads(dumps({"finding": finding}))["finding"]["line"] == 3


def test_one_line_and_readable_text():
    text = dumps({"text": "zwölf\nZeilen", "b": 1})
    assert "\n" not in text
    assert "zwölf" in text


def test_what_has_no_json_form_is_refused():
    with pytest.raises(TypeError, match="object"):
        dumps({"a": object()})
