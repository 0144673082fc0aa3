import pytest

from rnow.skills import check_frontmatter, load_skill, split_sections
from rnow_core.errors import RnowError

GOOD = {"name": "a-skill", "description": "Does a thing. Use when needed."}


def write_skill(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "SKILL.md").write_text(text)
    return folder


def test_all_six_keys_are_accepted():
    full = {
        **GOOD,
        "license": "MIT",
        "compatibility": "Python",
        "metadata": {"a": "b"},
        "allowed-tools": "Read Edit",
    }
    assert check_frontmatter(full, "a-skill") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "other"}, "folder is 'a-skill'"),
        ({"name": "A-Skill"}, "lower-case"),
        ({"name": "a--skill"}, "lower-case"),
        ({"name": "-a"}, "lower-case"),
        ({"name": "a" * 65}, "1-64"),
        ({"name": None}, "lower-case"),
        ({"description": ""}, "description must be"),
        ({"description": None}, "description must be"),
        ({"description": "x" * 1025}, "1025 characters"),
        ({"compatibility": "x" * 501}, "501 characters"),
        ({"license": 2}, "license must be"),
        ({"allowed-tools": ["Read"]}, "allowed-tools must be"),
        ({"metadata": ["a"]}, "metadata must map"),
        ({"metadata": {"version": 1}}, "metadata.version must be a string"),
        ({"argument-hint": "x"}, "unknown key 'argument-hint'"),
    ],
)
def test_each_rule_of_the_specification_is_checked(change, said):
    problems = check_frontmatter({**GOOD, **change}, "a-skill")
    assert len(problems) == 1
    assert said in problems[0]


def test_all_problems_are_reported_at_once(tmp_path):
    folder = write_skill(tmp_path / "a-skill", "---\nname: b\ndescription: ''\nextra: 1\n---\n")
    with pytest.raises(RnowError) as error:
        load_skill(folder)
    assert error.value.message.count("SKILL.md: ") == 3


def test_broken_frontmatter_names_the_line(tmp_path):
    folder = write_skill(tmp_path / "a-skill", "---\nname: a-skill\ndescription: 'open\n---\nbody\n")
    with pytest.raises(RnowError, match=r"SKILL\.md:\d+: the frontmatter is not YAML"):
        load_skill(folder)
    write_skill(folder, "# No frontmatter\n")
    with pytest.raises(RnowError, match=r"SKILL\.md:1: no frontmatter"):
        load_skill(folder)
    with pytest.raises(RnowError, match="cannot be read"):
        load_skill(tmp_path / "absent")


def test_sections_end_at_a_heading_of_the_same_level_and_fences_hide_headings():
    sections = split_sections("# T\n\n## A\nx\n### A1\ny\n```sh\n# comment\n## not one\n```\n## B ##\nz\n")
    assert sections["A"] == "x\n### A1\ny\n```sh\n# comment\n## not one\n```"
    assert sections["A1"] == "y\n```sh\n# comment\n## not one\n```"
    assert sections["B"] == "z"
    assert list(sections) == ["T", "A", "A1", "B"]


def test_a_longer_fence_is_not_closed_by_a_shorter_one():
    assert list(split_sections("## A\n````\n```\n## B\n````\n## C\n")) == ["A", "C"]


def test_commands_are_the_lines_of_the_shell_blocks(tmp_path):
    folder = write_skill(
        tmp_path / "a-skill",
        "---\nname: a-skill\ndescription: d\n---\n## Go\n"
        "```bash\n# first\nmake x  # why\n\nrnow run a=1\n```\n"
        "```python\nprint(1)\n```\n",
    )
    skill = load_skill(folder)
    assert skill.commands("Go") == ["make x", "rnow run a=1"]
    assert skill.commands("Elsewhere") == []
    with pytest.raises(RnowError, match="no section 'Elsewhere'"):
        skill.section("Elsewhere")
