import pytest


def test_renamed_keys_are_accepted_and_noted_where_they_stand(project):
    project.write("""\
        dataset_type: rl
        model: {path: ./x}
        rollout:
          rollout_timeout: 30
          thinking_mode: disabled
          max_tool_response_chars: 4001
        """)
    loaded = project.load()
    rollout = loaded.config.rollout
    assert (rollout.deadline, rollout.reasoning_mode, rollout.max_tool_response) == (30, "disabled", 1001)
    assert [(f.code, f.line, f.severity) for f in loaded.findings] == [
        ("RN107", 4, "warning"),
        ("RN107", 5, "warning"),
        ("RN107", 6, "warning"),
    ]
    assert "max_tool_response: 1001" in loaded.findings[2].hint
    assert loaded.locate("rollout.deadline").line == 4


def test_a_wrong_value_of_an_older_key_is_reported_at_its_line(project):
    project.write("dataset_type: rl\nmodel: {path: ./x}\nrollout:\n  thinking_mode: lots\n")
    finding = project.problem()
    assert (finding.code, finding.line, finding.col) == ("RN103", 4, 18)


@pytest.mark.parametrize(
    "text",
    [
        "project_id: 1",
        "organization_id: x",
        "dataset_id: x",
        "dataset_name: x",
        "docker_cmd: sleep",
        "trainer: {max_billing: 5}",
        "rollout: {}\nproject_id: null",
    ],
)
def test_keys_without_effect_are_noted(project, text):
    project.write("dataset_type: rl\nmodel: {path: ./x, name: me}\n" + text + "\n")
    codes = [(f.code, f.severity) for f in project.load().findings]
    assert codes == [("RN108", "info")] * 2


def test_agentic_is_noted_for_one_teacher_and_for_each_of_a_list(project):
    project.write("dataset_type: distill\nmodel: {path: ./x}\nteacher: {path: ./y, agentic: true}\n")
    assert [f.path for f in project.load().findings] == ["teacher.agentic"]
    project.write("dataset_type: distill\nmodel: {path: ./x}\nteacher: [{path: ./y, agentic: true}]\n")
    assert [f.path for f in project.load().findings] == ["teacher[0].agentic"]


def test_both_spellings_together_are_an_error_naming_both(project):
    project.write(
        "dataset_type: rl\nmodel: {path: ./x}\nrollout: {thinking_mode: low, reasoning_mode: low}\n"
    )
    finding = project.problem()
    assert finding.code == "RN109"
    assert "thinking_mode" in finding.message
    assert "reasoning_mode" in finding.message
