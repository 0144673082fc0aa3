"""What `validate` says of the folders of student, teacher and adapter."""

import json
import shutil

import pytest

PATHS = {"student": "model.path", "teacher": "teacher.path"}
WEIGHTS = "model.safetensors"


@pytest.fixture(params=["student", "teacher"])
def model(request):
    return request.param


def check_place(finding, model):
    """The finding points at the line of config.yml that names the model."""
    assert finding.severity == "error"
    assert (finding.file, finding.path) == ("config.yml", PATHS[model])
    assert finding.line > 1
    assert finding.hint


def test_missing_folder(project, model):
    shutil.rmtree(project.folder / model)
    finding = project.finding()
    check_place(finding, model)
    assert finding.code == "RN301"
    assert f"'./{model}'" in finding.message
    assert str(project.folder / model) in finding.message


def test_both_models_missing_is_one_finding_each(project):
    shutil.rmtree(project.folder / "student")
    shutil.rmtree(project.folder / "teacher")
    assert [(f.code, f.path) for f in project.findings()] == [
        ("RN301", "model.path"),
        ("RN301", "teacher.path"),
    ]


def test_folder_without_a_model(project, model):
    shutil.rmtree(project.folder / model)
    (project.folder / model).mkdir()
    finding = project.finding()
    check_place(finding, model)
    assert finding.code == "RN301"
    assert "no config.json" in finding.message


def test_a_file_instead_of_a_folder(project):
    finding = project.finding("model.path=./train.jsonl")
    assert finding.code == "RN301"
    assert "is a file" in finding.message
    assert finding.file == "command line"


def test_an_adapter_instead_of_a_model(project, model):
    config = project.folder / model / "config.json"
    config.rename(config.with_name("adapter_config.json"))
    finding = project.finding()
    check_place(finding, model)
    assert "adapter, not a model" in finding.message
    assert PATHS[model].replace("path", "adapter") in finding.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ("{}", "lacks vocab_size, hidden_size, num_hidden_layers"),
        ('{"vocab_size": "many", "hidden_size": 32, "num_hidden_layers": 1}', "lacks vocab_size"),
        ('{"architectures": ["BertForMaskedLM"]}', "BertForMaskedLM"),
        ('{"is_encoder_decoder": true}', "encoder-decoder"),
    ],
)
def test_broken_config(project, model, text, said):
    (project.folder / model / "config.json").write_text(text)
    finding = project.finding()
    check_place(finding, model)
    assert finding.code == "RN301"
    assert said in finding.message


def test_no_weights(project, model):
    (project.folder / model / WEIGHTS).unlink()
    finding = project.finding()
    check_place(finding, model)
    assert finding.code == "RN304"
    assert WEIGHTS in finding.message


@pytest.mark.parametrize("keep", [0, 3, 60, -1])
def test_truncated_weights(project, model, keep):
    file = project.folder / model / WEIGHTS
    file.write_bytes(file.read_bytes()[:keep])
    finding = project.finding()
    check_place(finding, model)
    assert finding.code == "RN304"
    assert str(file) in finding.message
    assert "cut off" in finding.message


def test_weights_that_are_something_else(project):
    file = project.folder / "student" / WEIGHTS
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "Git LFS" in project.finding().message
    file.write_bytes(b"\x08" + b"\0" * 7 + b"not json")
    assert "not a safetensors file" in project.finding().message
    file.write_bytes(b"\xff" * 64)
    assert "not a safetensors file" in project.finding().message


def test_a_missing_shard_is_named(project):
    folder = project.folder / "student"
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    finding = project.finding()
    assert finding.code == "RN304"
    assert "model-00002-of-00002.safetensors: does not exist" in finding.message


def test_no_tokenizer(project, model):
    (project.folder / model / "tokenizer.json").unlink()
    finding = project.finding()
    check_place(finding, model)
    assert finding.code == "RN303"
    assert "tokenizer.json" in finding.message


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b'{"chat_template": [{}]}'),
        ("tokenizer_config.json", b'{"chat_template": "x", "added_tokens_decoder": {"a": {}}}'),
        ("chat_template.jinja", b"{% for %}"),
        ("chat_template.jinja", b"\xff\xfe"),
        ("generation_config.json", b"{"),
    ],
)
def test_broken_tokenizer_files(project, model, file, content):
    (project.folder / model / file).write_bytes(content)
    finding = project.finding()
    assert (finding.code, finding.file, finding.path) == ("RN303", "config.yml", PATHS[model])


def test_the_student_needs_a_chat_template_and_the_teacher_does_not(project):
    project.edit_json("teacher/tokenizer_config.json", chat_template=None)
    assert project.findings() == []
    project.edit_json("student/tokenizer_config.json", chat_template=None)
    finding = project.finding()
    check_place(finding, "student")
    assert finding.code == "RN303"
    assert "no chat template" in finding.message


def test_a_hub_id_that_cannot_be_had(project, monkeypatch):
    import huggingface_hub

    def offline(repo, file):
        raise OSError(f"no route to {repo}\nlong explanation")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    finding = project.finding("model.path=some-one/some-model")
    assert (finding.code, finding.path) == ("RN302", "model.path")
    assert finding.message.endswith("no route to some-one/some-model")
    assert "hf auth login" in finding.hint


def test_window_beyond_what_the_student_was_made_for(project):
    finding = project.finding("rollout.max_context_window=4096")
    assert (finding.code, finding.path) == ("RN320", "rollout.max_context_window")
    assert "4096" in finding.message
    assert "128" in finding.message


def test_adapter_to_start_from(project):
    finding = project.finding("model.adapter=./start")
    assert (finding.code, finding.severity, finding.path) == ("RN305", "error", "model.adapter")
    assert "there is no folder './start'" in finding.message
    start = project.folder / "start"
    start.mkdir()
    (start / "adapter_config.json").write_text("{}")
    assert "no adapter_model.safetensors" in project.finding("model.adapter=./start").message
    (start / "adapter_model.safetensors").write_bytes(b"")
    assert project.findings("model.adapter=./start") == []


def test_ids_without_weights_are_a_warning_and_rows_that_use_them_errors(project):
    for model in PATHS:
        project.edit_json(f"{model}/tokenizer_config.json", extra_special_tokens=["<|new|>"])
        project.edit_json(f"{model}/config.json", vocab_size=48 if model == "student" else 64)
    warning = project.finding()
    assert (warning.code, warning.severity, warning.path) == ("RN306", "warning", "model.path")
    project.rows({"messages": [{"role": "user", "content": "a<|new|>"}]})
    errors = [f for f in project.findings() if f.severity == "error"]
    assert [(f.code, f.line) for f in errors] == [("RN226", 1)]
