import textwrap

import pytest

from rnow_core.config.load import load_config
from rnow_core.errors import FindingsError

BASE = """\
dataset_type: distill
model:
  path: ./student
teacher:
  path: ./teacher
"""


class Project:
    """A folder with a config.yml."""

    def __init__(self, folder):
        self.path = folder / "config.yml"

    def write(self, text):
        self.path.write_text(textwrap.dedent(text))
        return self

    def load(self, *overrides):
        return load_config(self.path, overrides)

    def problems(self, *overrides):
        """Everything the config is refused for."""
        with pytest.raises(FindingsError) as caught:
            self.load(*overrides)
        assert any(finding.severity == "error" for finding in caught.value.findings)
        return caught.value.findings

    def problem(self, *overrides):
        """The one error."""
        errors = [finding for finding in self.problems(*overrides) if finding.severity == "error"]
        assert len(errors) == 1, "\n".join(map(str, errors))
        return errors[0]


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path).write(BASE)
