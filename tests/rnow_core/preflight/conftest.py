import json
import shutil

import pytest
from tiny import make_project, row, write_config, write_rows

from rnow_core.preflight.check import check_project


class Project:
    """A tiny project to break, and what the checks say of it. Its rows name no rewards unless a test adds some."""

    def __init__(self, folder):
        self.folder = folder

    def rows(self, *rows, file="train.jsonl"):
        """Write rows: a dict as JSON, a string as it is."""
        lines = [item if isinstance(item, str) else json.dumps(item) for item in rows]
        (self.folder / file).write_text("".join(line + "\n" for line in lines))

    def config(self, **sections):
        write_config(self.folder, **sections)

    def edit_json(self, file, **values):
        """Change keys of a JSON file; None removes one."""
        path = self.folder / file
        data = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    def check(self, *overrides):
        return check_project(self.folder, overrides)

    def findings(self, *overrides):
        """Everything but notes."""
        return [finding for finding in self.check(*overrides).findings if finding.severity != "info"]

    def finding(self, *overrides):
        """The one finding."""
        found = self.findings(*overrides)
        assert len(found) == 1, "\n".join(map(str, found))
        return found[0]


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("pristine") / "project")
    write_rows(folder / "train.jsonl", [row(f"{i}+{i}=?", rewards=None) for i in range(12)])
    write_rows(folder / "val.jsonl", [row(f"{i}+1=?", rewards=None) for i in range(100, 106)])
    return folder


@pytest.fixture
def project(pristine, tmp_path):
    return Project(shutil.copytree(pristine, tmp_path / "project"))
