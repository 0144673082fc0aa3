STAGED = """\
dataset_type: distill
model: {path: ./x}
teacher: {path: ./y}
stages:
  - dataset_type: sft
    trainer: {max_steps: 3}
  - dataset_type: rl
    teacher: null
    data:
      group_size: 1
"""


def test_a_contradiction_in_a_stage_stands_in_that_stage(project):
    finding = project.write(STAGED).problem()
    assert (finding.code, finding.path, finding.line) == ("RN114", "stages[1].data.group_size", 10)


def test_a_repaired_stage_loads(project):
    config = project.write(STAGED).load("stages.1.data.group_size=2").config
    assert [stage.dataset_type for stage in config.stage_configs()] == ["sft", "rl"]


def test_what_the_base_brings_into_a_stage_is_reported_at_the_base(project):
    finding = project.write(STAGED.replace("    teacher: null\n", "").replace("size: 1", "size: 2")).problem()
    assert (finding.code, finding.path, finding.line) == ("RN111", "teacher", 3)


def test_typos_and_wrong_values_in_a_stage_are_found_once(project):
    project.write(STAGED.replace("max_steps: 3", "max_stepz: 3, num_epochs: x").replace("size: 1", "size: 2"))
    found = {(f.code, f.path, f.line, f.col) for f in project.problems() if f.severity == "error"}
    assert found == {
        ("RN101", "stages[0].trainer.max_stepz", 6, 15),
        ("RN103", "stages[0].trainer.num_epochs", 6, 41),
    }


def test_a_problem_of_the_base_is_reported_once(project):
    project.write(STAGED.replace("size: 1", "size: 2").replace("./y", "./y, nam: z"))
    errors = [f for f in project.problems() if f.severity == "error"]
    assert [(f.code, f.path, f.line) for f in errors] == [("RN101", "teacher.nam", 3)]


def test_stages_do_not_nest_and_are_mappings(project):
    project.write(STAGED.replace("size: 1", "size: 2") + "  - stages: []\n")
    assert project.problem().path == "stages[2].stages"
    project.write(STAGED.replace("size: 1", "size: 2") + "  - 3\n")
    assert (project.problem().path, project.problem().line) == ("stages[2]", 11)


def test_older_spellings_work_in_stages(project):
    project.write(STAGED.replace("size: 1", "size: 2") + "    rollout: {thinking_mode: low}\n")
    loaded = project.load()
    assert loaded.config.stage_configs()[1].rollout.reasoning_mode == "low"
    assert ("RN107", 11) in [(f.code, f.line) for f in loaded.findings]
