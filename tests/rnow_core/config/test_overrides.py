import pytest

from rnow_core.config.overrides import Change


def test_overrides_are_yaml_and_are_echoed_with_the_old_value(project):
    loaded = project.load(
        "trainer.learning_rate=5e-5",
        "model.path=./other",
        "data.train_file=[a.jsonl, b.jsonl]",
        "project_name=on",
        "trainer.max_steps=",
        "teacher.path=./t=x",
    )
    config = loaded.config
    assert config.trainer.learning_rate == 5e-5
    assert config.data.train_file == ["a.jsonl", "b.jsonl"]
    assert (config.project_name, config.trainer.max_steps) == ("on", None)
    assert config.teacher[0].path == "./t=x"
    assert loaded.changes[:3] == (
        Change("trainer.learning_rate", 1e-4, 5e-5),
        Change("model.path", "./student", "./other"),
        Change("data.train_file", ["train.jsonl"], ["a.jsonl", "b.jsonl"]),
    )


def test_the_last_override_wins_and_is_echoed_once(project):
    loaded = project.load("seed=1", "seed=2")
    assert loaded.config.seed == 2
    assert loaded.changes == (Change("seed", 0, 2),)


def test_whole_sections_and_elements_of_lists(project):
    loaded = project.load("teacher=[{path: ./a, name: a}, {path: ./b, name: b}]", "teacher.1.path=./c")
    assert [teacher.path for teacher in loaded.config.teacher] == ["./a", "./c"]
    assert loaded.changes[1].path == "teacher[1].path"


def test_older_spellings_work_in_overrides(project):
    project.write("dataset_type: rl\nmodel: {path: ./x}\nrollout: {max_tool_response: 7}\n")
    loaded = project.load("rollout.max_tool_response_chars=400")
    assert loaded.config.rollout.max_tool_response == 100
    assert loaded.changes == (Change("rollout.max_tool_response", 7, 100),)
    assert [(f.code, f.file) for f in loaded.findings] == [("RN107", "command line")]


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("seed", "key.path=value"),
        ("=1", "key.path=value"),
        ("a..b=1", "key.path=value"),
        ("trainer.max_steps=[", "YAML"),
        ("model.path.x=1", "nothing below"),
        ("model.path=3", "expected a text, got 3"),
        ("trainer.max_stepz=3", "unknown key"),
        ("data.train_file.0=a", "nothing below"),
    ],
)
def test_a_wrong_override_is_an_error_of_the_command_line(project, override, word):
    project.write("dataset_type: rl\nmodel: {path: ./x}\ndata: {train_file: train.jsonl}\n")
    finding = project.problem(override)
    assert (finding.file, finding.line, finding.col) == ("command line", None, None)
    assert word in finding.message + finding.hint


def test_a_list_wants_an_index(project):
    project.write("dataset_type: distill\nmodel: {path: ./x}\nteacher: [{path: ./a, name: a}]\n")
    assert "teacher.0.path" in project.problem("teacher.path=./b").hint
    assert project.load("teacher.0.path=./b").config.teacher[0].path == "./b"


def test_an_override_repairs_the_file(project):
    project.write("dataset_type: distil\nmodel: {path: ./x}\n")
    assert project.load("dataset_type=rl").config.dataset_type == "rl"
