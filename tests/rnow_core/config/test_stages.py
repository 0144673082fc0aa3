import pytest

from rnow_core.config.stages import in_stages

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


COLD_START = """\
dataset_type: distill
model: {path: ./x, qlora_rank: 8}
teacher: {path: ./y}
stages:
  - dataset_type: sft
    trainer: {max_steps: 3}
  - rollout: {max_tokens: 64}
"""


def test_a_key_that_another_stage_needs_is_not_said_to_have_no_effect(project):
    assert project.write(COLD_START).load().findings == ()
    loaded = project.write(COLD_START.replace("64}", "64}\n    trainer: {train_on: last_assistant}")).load()
    assert [(f.code, f.path) for f in loaded.findings] == [("RN133", "stages[1].trainer.train_on")]
    useless = COLD_START.replace("  - rollout: {max_tokens: 64}\n", "")
    assert [(f.code, f.line) for f in project.write(useless).load().findings] == [("RN133", 3)]


def test_a_student_that_goes_on_is_not_its_own_teacher(project):
    project.write(COLD_START.replace("./y", "self"))
    assert project.load().findings == ()


@pytest.mark.parametrize(
    ("overlay", "line"),
    [
        ("model: {qlora_rank: 16}", 7),
        ("model: {target_modules: [q_proj]}", 7),
        ("model: {qlora_rank: 0}", 7),
        ("model: {quantization: nf4}", 7),
    ],
)
def test_a_stage_cannot_go_on_from_another_kind_of_adapter(project, overlay, line):
    text = COLD_START.replace("rollout: {max_tokens: 64}", overlay)
    finding = project.write(text).problem()
    assert (finding.code, finding.line) == ("RN126", line)
    assert finding.path.startswith("stages[1].model.")
    project.write(text.replace("- model: {", "- model: {adapter: null, "))
    assert project.load().findings == ()


def test_an_override_of_the_whole_reaches_what_a_stage_writes(project):
    loaded = project.write(COLD_START).load("trainer.max_steps=9", "rollout.max_tokens=5", "teacher.name=t")
    first, second = loaded.config.stage_configs()
    assert [stage.trainer.max_steps for stage in (first, second)] == [9, 9]
    assert second.rollout.max_tokens == 5
    assert second.teacher[0].path == "./y"
    assert [(change.path, change.old) for change in loaded.changes] == [
        ("trainer.max_steps", None),
        ("stages[0].trainer.max_steps", 3),
        ("rollout.max_tokens", 2048),
        ("stages[1].rollout.max_tokens", 64),
        ("teacher.name", None),
    ]
    assert project.load("stages.0.trainer.max_steps=9").config.stage_configs()[1].trainer.max_steps is None


def test_a_stage_adds_to_the_teacher_however_it_is_written(project):
    text = COLD_START.replace("{path: ./y}", "[{path: ./y}]").replace(
        "rollout: {max_tokens: 64}", "teacher: {eval_baseline: true}\n    data: {val_file: v.jsonl}"
    )
    teacher = project.write(text).load().config.stage_configs()[1].teacher[0]
    assert (teacher.path, teacher.eval_baseline) == ("./y", True)


def test_keys_of_a_stage_are_found_where_they_are_written(project):
    loaded = project.write(COLD_START).load("stages.1.rollout.max_turns=2", "seed=1")
    first, second = in_stages(loaded)
    assert first.locate("trainer.max_steps")[:2] == (str(project.path), 6)
    assert second.locate("rollout.max_tokens")[:2] == (str(project.path), 7)
    assert [stage.locate("teacher.path").line for stage in (first, second)] == [3, 3]
    assert second.locate("rollout.max_turns").file == second.locate("seed").file == "command line"
    assert first.locate("rollout.max_turns").file == str(project.path)


def test_gpus_of_servers_belong_to_the_stages_that_have_them(project):
    loaded = project.write(COLD_START).load(
        "resources={inference_gpus: [0], teacher_gpus: [1], trainer_gpus: [2]}"
    )
    first, second = (stage.config.resources for stage in in_stages(loaded))
    assert (first.inference_gpus, first.teacher_gpus, first.trainer_gpus) == (None, None, [2])
    assert (second.inference_gpus, second.teacher_gpus, second.trainer_gpus) == ([0], [1], [2])
