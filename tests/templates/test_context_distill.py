"""The parts of the context-distill template: the puzzle, its levels, the verifier, the config, what people read."""

import json
import random
import re
import subprocess
import sys
from itertools import product

import pytest
from context_distill import SKILL, TEMPLATE, commented_blocks, make_project, read_rows
from ruamel.yaml import YAML

from rnow.skills import load_skill
from rnow_core.build.gpu_share import Needs
from rnow_core.build.placement import place
from rnow_core.config.load import load_config
from rnow_core.config.schema import Config, merge
from rnow_core.preflight.memory import cache_tokens, memory_plan
from rnow_core.preflight.model_facts import read_config
from rnow_core.preflight.plan import GIB, sizes_of

ROOM = """
#######
#-.--.#
#-$@$-#
#--#--#
#######
"""
QWEN3 = {
    "Qwen/Qwen3-0.6B": (1024, 28, 3072, 16, True),
    "Qwen/Qwen3-1.7B": (2048, 28, 6144, 16, True),
    "Qwen/Qwen3-4B-Instruct-2507": (2560, 36, 9728, 32, True),
    "Qwen/Qwen3-8B": (4096, 36, 12288, 32, False),
}
"""Hidden size, layers, intermediate size, heads, tied embeddings: from the models' config.json."""


@pytest.fixture(scope="module")
def template():
    """The template's modules, imported as its own files import each other."""
    sys.path.insert(0, str(TEMPLATE))
    try:
        import make_levels
        import puzzle
        import rewards

        yield type("Template", (), {"puzzle": puzzle, "make_levels": make_levels, "rewards": rewards})
    finally:
        sys.path.remove(str(TEMPLATE))
        for name in ("make_levels", "puzzle", "rewards"):
            sys.modules.pop(name, None)


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path / "project")


@pytest.mark.parametrize(
    ("moves", "drawn"),
    [
        ("U", ["-.@-.", "-$-$-", "--#--"]),
        ("R", ["-.--.", "-$-@$", "--#--"]),  # pushes the box
        ("RR", None),  # the box is at the wall
        ("D", None),  # a wall
        ("UU", None),  # the outer wall
        ("RUURDD", None),
        ("UR", ["-.-@.", "-$-$-", "--#--"]),
        ("ULLDDRU", ["-*--.", "-@-$-", "--#--"]),  # onto a goal
        ("L", ["-.--.", "$@-$-", "--#--"]),
    ],
)
def test_moves_are_those_of_sokoban(template, moves, drawn):
    after = template.puzzle.parse_level(ROOM).after_all(moves)
    said = after and template.puzzle.draw_level(after).replace(" ", "").splitlines()[1:4]
    assert said == (drawn and [f"#{line}#" for line in drawn])


def test_a_box_does_not_push_another(template):
    row = template.puzzle.parse_level("#######\n#@$$..#\n#######")
    assert row.after("R") is None
    assert template.puzzle.shortest_solution(row) is None
    assert template.puzzle.shortest_solution(template.puzzle.parse_level("####\n#$-#\n#@.#\n####")) is None


@pytest.mark.parametrize("text", ["#@$#", "#@@.$#", "#@.$?#", "#@$.\n###", ""])
def test_what_is_no_level_is_refused(template, text):
    with pytest.raises(ValueError, match="a level has"):
        template.puzzle.parse_level(text)


@pytest.mark.parametrize(
    ("reply", "moves"),
    [
        ("RRUL", "RRUL"),
        ("First I go right.\n\nMoves: R, r u L.\n", "RRUL"),
        ("**`RRUL`**", "RRUL"),
        ("<think>\nLLLL\n</think>\n\nRRUL", "RRUL"),
        ("RRUL\nThat solves it.", None),
        ("right, right, up", None),
        ("<think>\nRRUL", None),
        ("R" * 1001, None),
        ("", None),
        ("Moves:", None),
    ],
)
def test_the_moves_are_in_the_last_line(template, reply, moves):
    assert template.puzzle.read_moves(reply) == moves


def test_solutions_are_shortest(template):
    """Against trying all sequences of up to six moves."""
    small = template.puzzle.Difficulty(width=3, height=3, walls=1, min_moves=1, max_moves=6)
    levels, drawn = random.Random(5), 0
    for _ in range(40):
        level = template.puzzle.draw_lots(small, levels)
        found = template.puzzle.shortest_solution(level, most_moves=5)
        tried = (
            "".join(moves)
            for length in range(1, 6)
            for moves in product("UDLR", repeat=length)
            if (end := level.after_all(moves)) is not None and end.is_solved
        )
        shortest = next(tried, None)
        assert (found and len(found)) == (shortest and len(shortest))
        drawn += found is not None
    assert drawn > 5


def test_the_levels_that_come_with_it_are_made_by_the_script_and_can_be_solved(template, project):
    made = {name: (project / name).read_bytes() for name in ("train.jsonl", "val.jsonl")}
    for name in made:
        (project / name).unlink()
    levels = run_script(project)
    assert levels.returncode == 0, levels.stderr
    assert {name: (project / name).read_bytes() for name in made} == made
    rows = [row for name in made for row in read_rows(project / name)]
    assert len({row["metadata"]["level"] for row in rows}) == len(rows) == 256 + 64
    for row in rows:
        level = template.puzzle.parse_level(row["metadata"]["level"])
        assert row["messages"] == [{"role": "user", "content": template.puzzle.ask(level)}]
        assert template.puzzle.parse_level(row["messages"][0]["content"].split("\n\n")[1]) == level
        answer = row["metadata"]["answer"]
        assert 3 <= len(answer) == row["metadata"]["moves"] <= 10
        assert solved(template, row, answer) == 1.0
        assert solved(template, row, answer[:-1]) == 0.0, "a shortest solution needs its last move"


def solved(template, row, reply):
    from rnow import RewardArgs

    messages = [*row["messages"], {"role": "assistant", "content": reply}]
    return template.rewards.solved(RewardArgs(metadata=row["metadata"]), messages)


def run_script(project, *options):
    command = [sys.executable, "make_levels.py", *options]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60)


def test_options_make_other_levels(template):
    def first(seed, **options):
        difficulty = template.puzzle.Difficulty(**options)
        return next(template.make_levels.make_levels(difficulty, seed))

    hard = {"width": 6, "height": 4, "boxes": 2, "walls": 2, "min_moves": 9, "max_moves": 15}
    made = first(0, **hard)
    assert made == first(0, **hard) != first(1, **hard)
    assert (made.level.rows, made.level.columns, len(made.level.boxes)) == (6, 8, 2)
    assert len(made.level.walls) == 2 * (8 + 4) + 2
    assert 9 <= len(made.solution) <= 15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--width=3", "--height=1", "--walls=0", "--min-moves=1"), "only 2 different levels"),
        (("--walls=30",), "25 cells do not hold 33"),
        (("--min-moves=12",), "max_moves is from min_moves (12)"),
        (("--train=0",), "expected a number of at least 1"),
    ],
)
def test_impossible_wishes_leave_the_files_alone(project, options, words):
    before = (project / "train.jsonl").read_bytes()
    done = run_script(project, *options)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert (project / "train.jsonl").read_bytes() == before


def test_the_rules_are_in_the_context_alone(project):
    context = (project / "context.txt").read_text()
    assert context.endswith("\n\n")
    for rule in ("# is a wall", "pushes a box", "cannot be pulled"):
        assert rule in context
        assert rule not in (project / "train.jsonl").read_text()


def test_the_config_and_its_commented_blocks(project):
    text = (project / "config.yml").read_text()
    config = load_config(project / "config.yml").config
    weights = config.weights
    assert (weights.adv_tau, weights.teacher_tau, weights.student_tau) == (0, 1, 1)
    assert (config.model.qlora_rank, config.teacher[0].path) == (16, "self")
    assert config.teacher[0].eval_baseline
    hybrid, *resources = commented_blocks(text)
    mixed = Config.model_validate(merge(YAML(typ="safe").load(text), hybrid))
    assert (mixed.weights.adv_tau, mixed.weights.teacher_tau, mixed.weights.student_tau) == (0.5, 0.5, 0.5)
    assert (mixed.algorithm.clip_min, mixed.algorithm.clip_max) == (-5, 5)
    needs = Needs(80 * GIB, 8 * GIB, 8 * GIB, 9 * GIB, 20 * GIB, 150_000, 64 * 1200, 1200)
    found = {}
    for block in resources:
        there = Config.model_validate(merge(YAML(typ="safe").load(text), block))
        gpus = sum(
            len(there.resources.model_dump()[f"{r}_gpus"]) for r in ("inference", "teacher", "trainer")
        )
        placed = place(there, "vllm", gpus, needs)
        found[gpus] = (placed.inference.gpus, placed.teacher.gpus, placed.trainer)
        assert (placed.inference.tensor, placed.teacher.tensor) == ((1, 1) if gpus == 4 else (2, 2))
    assert found == {4: ((0,), (1,), (2, 3)), 8: ((0, 1), (2, 3), (4, 5, 6, 7))}


def test_the_memory_table_is_what_validate_computes(project, tmp_path):
    config = load_config(project / "config.yml").config
    table = re.findall(r"^\| (Qwen/[\w.-]+).*?\| ([\d. |]+) \|$", (project / "README.md").read_text(), re.M)
    assert dict(table).keys() == QWEN3.keys()
    for name, figures in table:
        hidden, layers, inner, heads, tied = QWEN3[name]
        sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": inner}
        more = {"num_attention_heads": heads, "tie_word_embeddings": tied, "vocab_size": 151936}
        (tmp_path / "config.json").write_text(
            json.dumps({**sizes, **more, "num_key_value_heads": 8, "head_dim": 128})
        )
        facts = read_config(tmp_path / "config.json", name, "model.path")
        longest = 160 + config.rollout.max_tokens
        wanted = config.data.batch_size * config.data.group_size * longest
        planned = sizes_of(config, on_gpu=True, longest=longest, prefix_tokens=320)
        cache = cache_tokens(facts, None, planned, 80 * GIB, wanted, least=longest)
        plan = memory_plan(facts, None, planned, cache)
        parts = ("student_weights", "training", "kv_cache", "activations", "total")
        assert [float(figure) for figure in figures.split("|")] == pytest.approx(
            [plan[part] / GIB for part in parts], abs=0.0501
        )


def test_claude_md_has_the_skill_s_sections_and_names_files_that_exist(project):
    text, skill = (project / "CLAUDE.md").read_text(), load_skill(SKILL)
    assert skill.section("Setup") in text
    assert skill.section("Quick start") in text
    files = re.findall(r"`([\w.-]+\.(?:py|yml|txt|jsonl))`", text)
    assert {"config.yml", "context.txt", "puzzle.py", "val.jsonl"} <= set(files)
    assert all((project / name).is_file() for name in files)


def test_every_yaml_example_of_the_skill_is_a_config():
    text = (SKILL / "SKILL.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    base = {
        "dataset_type": "distill",
        "model": {"path": "a"},
        "teacher": {"path": "self", "context": "x\n\n"},
    }
    configs = [Config.model_validate(merge(base, YAML(typ="safe").load(block))) for block in blocks]
    assert configs[0].teacher[0].context.endswith("Now solve this puzzle:\n\n")
    assert configs[1].weights.adv_tau == 0.5
