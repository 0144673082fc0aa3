import json
import os
import stat
from pathlib import Path

import pytest


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_project_is_created_with_rendered_and_copied_files(rnow, assets):
    done = rnow("init", "tiny", "proj")
    assert done.code == 0
    config = Path("proj/config.yml").read_text()
    assert config == "project_name: proj\nmodel: {path: ./student}\nseed: 0\nlr: 0.0001\n"
    assert Path("proj/CLAUDE.md").read_text() == "## Setup\n\nInstall it.\n"
    assert Path("proj/data/raw.bin").read_bytes() == b"\x00\xff{{ not.rendered }}\r\n"
    assert Path("proj/go.sh").stat().st_mode & stat.S_IXUSR
    assert not Path("proj/config.yml").stat().st_mode & stat.S_IXUSR
    assert not list(Path("proj").rglob("*.pyc"))
    skill = (assets / "skills/tiny-skill/SKILL.md").read_bytes()
    for home in (".claude", ".agents"):
        assert Path(f"proj/{home}/skills/tiny-skill/SKILL.md").read_bytes() == skill
    assert [line.strip() for line in done.out.split("Next:")[1].split("\n") if line] == [
        "cd proj",
        "python prepare.py",
        "rnow run",
    ]


def test_files_follow_the_umask(rnow, assets):
    before = os.umask(0o077)
    try:
        rnow("init", "tiny", "proj")
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("proj/go.sh").stat().st_mode) == 0o700
    assert stat.S_IMODE(Path("proj/config.yml").stat().st_mode) == 0o600


def test_the_default_is_the_working_directory_and_its_name(rnow, assets):
    done = rnow("init", "tiny", "--json")
    assert done.code == 0
    assert json.loads(done.out)["next"] == ["python prepare.py", "rnow run"]
    assert "project_name: work\n" in Path("config.yml").read_text()


def test_name_and_set_fill_the_template(rnow, assets):
    assert rnow("init", "tiny", "--name", "mine", "--set", "student=org/model").code == 0
    config = Path("config.yml").read_text()
    assert "project_name: mine\n" in config
    assert "{path: org/model}" in config


def test_an_unknown_setting_is_a_usage_error_naming_the_keys(rnow, assets):
    for setting in ("teacher=x", "student"):
        done = rnow("init", "tiny", "--set", setting)
        assert done.code == 2
        assert "Keys: student." in done.err
    assert not list(Path().iterdir())


def test_twice_is_the_same_as_once(rnow, assets):
    first = json.loads(rnow("init", "tiny", "proj", "--json").out)
    before = tree(Path("proj"))
    times = {path: path.stat().st_mtime_ns for path in Path("proj").rglob("*")}
    again = rnow("init", "tiny", "proj", "--json")
    second = json.loads(again.out)
    assert again.code == 0
    assert second["created"] == []
    assert second["identical"] == first["created"] != []
    assert tree(Path("proj")) == before
    assert {path: path.stat().st_mtime_ns for path in Path("proj").rglob("*")} == times


def test_a_conflict_writes_nothing(rnow, assets):
    Path("proj").mkdir()
    Path("proj/config.yml").write_text("mine\n")
    Path("proj/notes.txt").write_text("notes\n")
    done = rnow("init", "tiny", "proj")
    assert done.code == 4
    assert "config.yml" in done.err
    assert "--force" in done.err
    assert "notes.txt" not in done.err
    assert tree(Path("proj")) == {"config.yml": b"mine\n", "notes.txt": b"notes\n"}
    answer = json.loads(rnow("init", "tiny", "proj", "--json").out)
    assert answer["conflicts"] == ["config.yml"]
    assert answer["created"] == []
    assert answer["overwritten"] == []
    assert answer["error"]["exit_code"] == 4
    assert tree(Path("proj")) == {"config.yml": b"mine\n", "notes.txt": b"notes\n"}


def test_force_overwrites_what_differs_and_deletes_nothing(rnow, assets):
    other = Path("proj/.claude/skills/other/SKILL.md")
    other.parent.mkdir(parents=True)
    other.write_text("the user's own\n")
    Path("proj/config.yml").write_text("mine\n")
    done = rnow("init", "tiny", "proj", "--force", "--json")
    answer = json.loads(done.out)
    assert done.code == 0
    assert answer["overwritten"] == ["config.yml"]
    assert answer["conflicts"] == []
    assert Path("proj/config.yml").read_text().startswith("project_name: proj")
    assert other.read_text() == "the user's own\n"


@pytest.mark.parametrize("flags", [(), ("--force",)])
def test_force_does_not_replace_a_folder_by_a_file_or_a_file_by_a_folder(rnow, assets, flags):
    Path("proj/config.yml").mkdir(parents=True)
    Path("proj/data").write_text("a file\n")
    done = rnow("init", "tiny", "proj", *flags)
    assert done.code == 4
    assert "config.yml" in done.err
    assert "data/raw.bin" in done.err
    assert tree(Path("proj")) == {"data": b"a file\n"}


def test_a_file_in_place_of_the_project_folder(rnow, assets):
    Path("proj").write_text("a file\n")
    assert rnow("init", "tiny", "proj", "--force").code == 4
    assert Path("proj").read_text() == "a file\n"


def test_a_dangling_link_is_a_conflict_and_is_not_written_through(rnow, assets):
    Path("config.yml").symlink_to("elsewhere.yml")
    assert rnow("init", "tiny").code == 4
    assert rnow("init", "tiny", "--force").code == 0
    assert not Path("elsewhere.yml").exists()
    assert not Path("config.yml").is_symlink()


def test_a_dry_run_writes_nothing_and_says_the_same(rnow, assets):
    planned = rnow("init", "tiny", "proj", "--dry-run", "--json")
    assert planned.code == 0
    assert not list(Path().iterdir())
    assert "nothing was written" in rnow("init", "tiny", "proj", "--dry-run").out
    assert not list(Path().iterdir())
    assert json.loads(planned.out)["dry_run"] is True
    done = json.loads(rnow("init", "tiny", "proj", "--json").out)
    assert json.loads(planned.out)["created"] == done["created"]
    Path("proj/config.yml").write_text("mine\n")
    assert rnow("init", "tiny", "proj", "--dry-run").code == 4


def test_an_unknown_template_is_a_usage_error_with_a_suggestion(rnow, assets):
    done = rnow("init", "tini", "proj")
    assert done.code == 2
    assert "Did you mean 'tiny'?" in done.err
    assert "Templates: tiny" in done.err
    assert rnow("init").code == 2
    assert rnow("init", "..", "proj").code == 2
    assert not list(Path().iterdir())


def test_an_undefined_name_is_an_error_with_file_and_line(rnow, assets):
    (assets / "templates/tiny/README.md.j2").write_text("one\ntwo {{ skill.size }}\n")
    done = rnow("init", "tiny", "proj")
    assert done.code == 1
    assert "README.md.j2:2: " in done.err
    assert "size" in done.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ok\n\n{{ skill.section('Nowhere') }}\n", 3),
        ("ok\n{% if %}\n", 2),
        ("{{ ''.__class__.__mro__ }}\n", 1),
    ],
)
def test_errors_in_a_template_name_file_and_line(rnow, assets, text, line):
    (assets / "templates/tiny/README.md.j2").write_text(text)
    done = rnow("init", "tiny", "proj")
    assert done.code == 1
    assert f"README.md.j2:{line}: " in done.err
    assert "Traceback" not in done.err
    assert not list(Path().iterdir())


def test_a_template_without_a_skill_works(rnow, assets):
    plain = assets / "templates" / "plain"
    plain.mkdir()
    (plain / "config.yml.j2").write_text("project_name: {{ project.name }}\n")
    done = rnow("init", "plain", "proj", "--json")
    assert tree(Path("proj")) == {"config.yml": b"project_name: proj\n"}
    assert json.loads(done.out)["next"] == ["cd proj", "rnow validate", "rnow run"]
    (plain / "x.j2").write_text("{{ skill.name }}")
    assert "'skill' is undefined" in rnow("init", "plain", "other").err


def test_the_list_names_every_template_and_what_it_is_for(rnow, assets):
    (assets / "templates" / "plain").mkdir()
    assert "Try the tiny one" in rnow("init", "--list").out
    rows = json.loads(rnow("init", "--list", "--json").out)["templates"]
    assert [(row["name"], row["skill"]) for row in rows] == [("plain", None), ("tiny", "tiny-skill")]


def test_a_folder_that_cannot_be_written_is_one_clear_error(rnow, assets, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rnow.scaffold.tempfile.mkstemp", full)
    done = rnow("init", "tiny", "proj")
    assert done.code == 1
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err


def test_an_installation_without_assets_says_so(rnow, monkeypatch, tmp_path):
    monkeypatch.setattr("rnow.assets.PACKAGE", tmp_path / "nowhere" / "rnow")
    done = rnow("init", "quickstart")
    assert done.code == 3
    assert "reinstall" in done.err
