import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from rnow_core.config import codes
from rnow_core.config.load import load_config
from rnow_core.config.schema import Config, resolved
from rnow_core.config.schema_tree import all_keys, keys_of
from rnow_core.config.spellings import IGNORED, RENAMED
from rnow_core.errors import FindingsError


def test_defaults_are_filled_in_and_teachers_are_a_list(project):
    config = project.load().config
    assert [teacher.path for teacher in config.teacher] == ["./teacher"]
    assert (config.data.train_file, config.data.batch_size, config.data.group_size) == (["train.jsonl"], 4, 4)
    assert (config.model.qlora_rank, config.model.qlora_alpha) == (32, 64)
    assert (config.trainer.learning_rate, config.trainer.save_step) == (1e-4, -1)
    assert project.load().findings == ()


def test_alpha_follows_the_rank_unless_it_is_set(project):
    assert project.load("model.qlora_rank=7").config.model.qlora_alpha == 14
    assert project.load("model.qlora_rank=7", "model.qlora_alpha=null").config.model.qlora_alpha == 14
    assert project.load("model.qlora_rank=7", "model.qlora_alpha=3").config.model.qlora_alpha == 3
    assert project.load("model.qlora_rank=0").config.model.qlora_alpha == 0


def test_all_problems_come_at_once_each_with_its_place(project):
    project.write("""\
        dataset_type: distill
        data:
          batch_sise: 4
          group_size: "4"
        model:
          qlora_rank: -1
        teacher:
          path: openai/gpt-4o
        algorithm: {loss_fn: pppo, adv_tau: 1, kl_penalty_coef: 0.2}
        trainer:
          learning_rate: fast
          num_epochs: 1.0
        kl_discount: 1
        """)
    found = {(f.path, f.code, f.line, f.col) for f in project.problems()}
    assert found == {
        ("data.batch_sise", "RN101", 3, 3),
        ("data.group_size", "RN103", 4, 15),
        ("model.path", "RN102", 5, 1),
        ("model.qlora_rank", "RN103", 6, 15),
        ("teacher.path", "RN120", 8, 9),
        ("algorithm.loss_fn", "RN103", 9, 22),
        ("algorithm.kl_penalty_coef", "RN112", 9, 40),
        ("trainer.learning_rate", "RN103", 11, 18),
        ("trainer.num_epochs", "RN103", 12, 15),
        ("kl_discount", "RN101", 13, 1),
    }
    assert all(f.file == str(project.path) and f.message for f in project.problems())


@pytest.mark.parametrize(
    ("lines", "message", "hint"),
    [
        (
            "kl_penalty_coef: 0.1",
            "unknown key `kl_penalty_coef`",
            "`kl_penalty_coef` belongs under `algorithm`",
        ),
        ("trainer: {learning-rate: 1}", "unknown key `learning-rate`", "did you mean `learning_rate`?"),
        ("rollout: {lerning_rate: 1}", "unknown key `lerning_rate`", "did you mean `trainer.learning_rate`?"),
        ("algorithm: {loss_fn: PPO}", 'expected one of ppo, importance_sampling, cispo, got "PPO"', "`ppo`"),
        ("trainer: {max_steps: '5'}", 'expected a whole number of at least 1 or null, got "5"', "write 5"),
        (
            "trainer: {max_steps: 1e2}",
            "expected a whole number of at least 1 or null, got 100.0",
            "write 100",
        ),
        ("trainer: {max_steps: true}", "got true", "null"),
        ("trainer: {save_step: 0}", "expected -1 or a whole number of at least 1, got 0", "end only"),
        ("algorithm: {beta_jsd: 0}", "got 0", "forward or reverse"),
        ("algorithm: {beta_jsd: 1.0}", "got 1.0", "forward or reverse"),
        ("algorithm: {kl_discount: .nan}", "expected a number", ""),
        ("seed: null", "got nothing (null)", "default"),
        ("rollout: 3", "expected a mapping, got 3", "Sampling"),
        ("data: {train_file: [a.jsonl, 3]}", "expected a text, got 3", ""),
        ("data: {train_file: []}", "expected a text or a list of texts, got a list", ""),
        ("sandbox: {memory: 2GB}", 'expected a text such as 512m or 2g, got "2GB"', ""),
        ("model: {path: x, target_modules: [1]}", "expected a text, got 1", ""),
    ],
)
def test_a_message_says_what_was_got_what_was_expected_and_the_fix(tmp_path, lines, message, hint):
    path = tmp_path / "config.yml"
    base = {
        "dataset_type: distill": "dataset_type",
        "model: {path: x}": "model",
        "teacher: {path: y}": "teacher",
    }
    path.write_text("\n".join([text for text, key in base.items() if not lines.startswith(key)] + [lines]))
    with pytest.raises(FindingsError) as caught:
        load_config(path)
    (finding,) = caught.value.findings
    assert message in finding.message
    assert hint in finding.hint
    if message.startswith("expected"):
        assert finding.hint


def test_a_missing_file_and_unreadable_ones_are_one_clear_finding(tmp_path):
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00")
    for name, word in (("none.yml", "no such file"), ("binary.yml", "UTF-8"), (".", "cannot be read")):
        with pytest.raises(FindingsError) as caught:
            load_config(tmp_path / name)
        (finding,) = caught.value.findings
        assert finding.code == "RN100"
        assert word in finding.message
        assert finding.hint


def test_an_empty_file_lacks_what_is_required_and_a_list_is_no_config(project):
    project.write("# nothing yet\n")
    assert {(f.path, f.code) for f in project.problems()} == {("dataset_type", "RN102"), ("model", "RN102")}
    project.write("- 1\n")
    assert "a list" in project.problem().message


def test_syntax_faults_and_duplicate_keys_stop_the_load(project):
    project.write("a: [1,\n")
    assert project.problem().code == "RN104"
    project.write("dataset_type: rl\nmodel: {path: x}\nmodel: {path: y}\n")
    finding = project.problem()
    assert (finding.code, finding.line, finding.path) == ("RN105", 3, "model")


def test_empty_sections_mean_their_defaults(project):
    project.write("dataset_type: rl\nmodel: {path: ./x}\nrollout:\nteacher:\nstages:\n$schema: ./s.json\n")
    assert project.load().config.rollout == Config(dataset_type="rl", model={"path": "x"}).rollout
    assert project.load().config.teacher == []


def test_a_later_check_can_point_at_keys(project):
    loaded = project.load("trainer.max_steps=3")
    assert loaded.locate("teacher.path") == (str(project.path), 5, 3)
    assert loaded.locate("teacher[0].path") == (str(project.path), 5, 3)
    assert loaded.locate("teacher.context") == (str(project.path), 4, 1)
    assert loaded.locate("rollout.max_tokens") == (str(project.path), 1, 1)
    assert loaded.locate("trainer.max_steps") == ("command line", None, None)
    finding = loaded.finding("RN300", ("teacher", 0, "path"), "another tokenizer", "use the same family")
    assert (finding.line, finding.path, finding.severity) == (5, "teacher.path", "error")
    assert loaded.root == project.path.parent


def test_importing_the_loader_brings_no_torch():
    heavy = "{'torch', 'transformers', 'peft', 'numpy'}"
    code = f"import sys, rnow_core.config.load; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def full_config():
    """A config that writes every key once, with the defaults."""
    config = Config.model_validate(
        {"dataset_type": "distill", "model": {"path": "./x"}, "teacher": {"path": "./y"}}
    )
    return {key: value for key, value in resolved(config).items() if key != "stages"}


def key_paths(data, path=()):
    for key, value in data.items():
        yield (*path, key)
        if key == "teacher":
            yield from key_paths(value[0], (key, 0))
        elif isinstance(value, dict):
            yield from key_paths(value, (*path, key))


PATHS = list(key_paths(full_config()))
OLDER = {renamed.old for renamed in RENAMED} | {ignored.key for ignored in IGNORED}


def test_the_full_config_writes_every_key_of_the_schema():
    written = {tuple(part for part in path if part != 0) for path in PATHS}
    assert written == set(all_keys()) - {("$schema",), ("stages",)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(PATHS), seed=st.integers(0, 10_000))
def test_a_typo_in_any_key_is_reported_at_its_line(path, seed, tmp_path):
    rng = random.Random(seed)
    word, at = path[-1], rng.randrange(len(path[-1]))
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz_")
    typo = rng.choice(
        [word[:at] + word[at + 1 :], word[:at] + letter + word[at:], word[:at] + letter + word[at + 1 :]]
    )
    data = full_config()
    siblings = keys_of(tuple(part for part in path[:-1]))
    if not typo or typo in siblings or typo in OLDER:
        return
    parent = data
    for part in path[:-1]:
        parent = parent[part]
    renamed = {typo if key == word else key: value for key, value in parent.items()}
    parent.clear()
    parent.update(renamed)
    file = tmp_path / "config.yml"
    with file.open("w") as stream:
        YAML().dump(data, stream)
    with pytest.raises(FindingsError) as caught:
        load_config(file)
    unknown = [finding for finding in caught.value.findings if finding.code == "RN101"]
    assert len(unknown) == 1
    assert f"{typo}:" in file.read_text().splitlines()[unknown[0].line - 1]
    assert unknown[0].hint


def test_every_code_in_the_sources_is_in_the_table_and_the_other_way_round():
    sources = [path for path in Path(codes.__file__).parent.glob("*.py") if path.name != "codes.py"]
    used = {code for path in sources for code in re.findall(r'"(RN\d{3})"', path.read_text())}
    assert used == set(codes.CODES)
