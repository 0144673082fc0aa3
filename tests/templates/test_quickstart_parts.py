"""The parts of the quickstart's prepare.py, its rewards and its config, without training the real models."""

import dataclasses
import importlib.util
import json
import math
import random
import sys

import pytest
import torch

from rnow.assets import asset_root
from rnow.scaffold import plan_project, write_project
from rnow.skills import load_skill
from rnow_core.config.load import load_config
from rnow_core.data.rows import load_prompts

TEMPLATE = asset_root() / "templates" / "quickstart"


def load_module(name):
    spec = importlib.util.spec_from_file_location(f"quickstart_{name}", TEMPLATE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


prepare = load_module("prepare")


@pytest.fixture(scope="module")
def tokenizer():
    return prepare.make_tokenizer()


@pytest.fixture
def recipe():
    return dataclasses.replace(prepare.STUDENT, hidden=32, layers=1)


@pytest.fixture
def lessons(tokenizer):
    return prepare.make_lessons(tokenizer, prepare.make_questions(128, random.Random(1), set()))


def one_letter_replies(lessons, tokenizer):
    """The same prompts with the reply `A`: learnt within a few steps by any model."""
    reply = torch.tensor([tokenizer("A<|im_end|>", add_special_tokens=False)["input_ids"]])
    return prepare.Lessons(lessons.prompts, reply.repeat(len(lessons.prompts), 1))


def test_the_answer_is_the_string_backwards():
    assert prepare.answer("reverse KQZMAB") == "BAMZQK"
    for question in prepare.make_questions(20, random.Random(0), set()):
        word = question.removeprefix("reverse ")
        assert len(word) == prepare.LETTERS
        assert prepare.answer(f"reverse {prepare.answer(question)}") == word


def test_no_question_is_made_twice(monkeypatch):
    monkeypatch.setattr(prepare, "LETTERS", 2)
    taken = set()
    first = prepare.make_questions(300, random.Random(0), taken)
    second = prepare.make_questions(300, random.Random(0), taken)
    assert len(set(first) | set(second)) == 600
    assert taken == set(first) | set(second)


def test_rows_load_and_hold_the_question_and_its_answer(tmp_path):
    questions = prepare.make_questions(5, random.Random(0), set())
    prepare.write_rows(tmp_path / "train.jsonl", questions)
    prompts = load_prompts([tmp_path / "train.jsonl"], dataset_type="distill", need_rewards=True)
    assert [prompt.messages for prompt in prompts] == [({"role": "user", "content": q},) for q in questions]
    assert [prompt.metadata["answer"] for prompt in prompts] == [prepare.answer(q) for q in questions]
    assert {prompt.rewards for prompt in prompts} == {("accuracy",)}


@pytest.mark.parametrize(
    "text", ["reverse KQZMAB", "Grüße, 世界 🙂\n\ttab", "  two  spaces ", "x<|im_end|>y"]
)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_every_letter_of_a_reply_is_one_token(tokenizer, lessons):
    assert lessons.replies.shape == (128, prepare.LETTERS + 1)
    assert set(lessons.replies[:, -1].tolist()) == {tokenizer.eos_token_id}
    prompt = tokenizer.decode(lessons.prompts[0])
    word = prompt.split()[-2].removesuffix("<|im_end|>")
    assert prompt == f"<|im_start|>user\nreverse {word}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(lessons.replies[0]) == word[::-1] + "<|im_end|>"


def test_batches_go_round(lessons, monkeypatch):
    monkeypatch.setattr(prepare, "BATCH", 48)
    seen = torch.cat([batch.prompts for batch in lessons.batches(4)])
    assert torch.equal(seen, torch.cat([lessons.prompts, lessons.prompts])[: 4 * 48])


@torch.no_grad()
def test_logprobs_are_those_of_the_whole_forward_pass(tokenizer, recipe, lessons):
    model = prepare.make_model(recipe, tokenizer)
    found = prepare.reply_logprobs(model, lessons)
    for row in (0, 77):
        ids = torch.cat([lessons.prompts[row], lessons.replies[row]])
        logprobs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        start = len(lessons.prompts[row])
        expected = [logprobs[start + i - 1, ids[start + i]].item() for i in range(len(lessons.replies[row]))]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_accuracy_is_the_probability_of_the_whole_reply(tokenizer, recipe, lessons):
    model = prepare.make_model(recipe, tokenizer)
    model.lm_head.weight.zero_()
    uniform = len(tokenizer) ** -(prepare.LETTERS + 1.0)
    assert prepare.expected_accuracy(model, lessons) == pytest.approx(uniform, rel=1e-4)


def test_training_ends_in_the_band_however_rarely_it_is_measured(tokenizer, recipe, lessons, monkeypatch):
    easy = one_letter_replies(lessons, tokenizer)
    monkeypatch.setattr(prepare, "CHECK_EVERY", 40)
    monkeypatch.setattr(prepare, "WARMUP", 1)
    model = prepare.make_model(recipe, tokenizer)
    steps = prepare.train(model, recipe, easy, easy)
    assert steps == 40, "the first look is far above the band"
    assert recipe.low <= prepare.expected_accuracy(model, easy) <= recipe.high


def test_training_gives_up_after_the_last_step(tokenizer, recipe, lessons, monkeypatch):
    monkeypatch.setattr(prepare, "MAX_STEPS", 3)
    model = prepare.make_model(recipe, tokenizer)
    assert prepare.train(model, recipe, lessons, lessons) == 3
    assert prepare.expected_accuracy(model, lessons) < recipe.low


def test_a_saved_model_answers_from_its_folder_alone(tokenizer, recipe, lessons, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "answer", lambda question: "A")
    easy = one_letter_replies(lessons, tokenizer)
    model = prepare.make_model(recipe, tokenizer)
    prepare.train(model, dataclasses.replace(recipe, low=0.45, high=0.55), easy, easy)
    prepare.save(model, tokenizer, tmp_path / "model")
    questions = prepare.make_questions(512, random.Random(2), set())
    expected = prepare.expected_accuracy(model, prepare.make_lessons(tokenizer, questions))
    reached = prepare.sampled_accuracy(tmp_path / "model", questions)
    assert reached == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 512))
    assert json.loads((tmp_path / "model/generation_config.json").read_text())["eos_token_id"] == (
        tokenizer.eos_token_id
    )


def test_a_model_outside_its_band_ends_the_program(tokenizer, recipe, lessons, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "MAX_STEPS", 1)
    with pytest.raises(SystemExit, match=r"\./student must be right in 10% to 25%"):
        prepare.make_and_check(recipe, lessons, prepare.make_questions(8, random.Random(2), set()))


def test_held_out_questions_are_in_no_training_set(tokenizer, tmp_path, monkeypatch):
    lessons, held_out = [], []

    def remember(recipe, known, questions):
        lessons.extend(tokenizer.batch_decode(known.prompts))
        held_out.extend(questions)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare.py"])
    for name, value in {"LETTERS": 2, "HELD_OUT": 200, "PROMPTS": 200, "LESSONS": 200}.items():
        monkeypatch.setattr(prepare, name, value)
    monkeypatch.setattr(prepare, "make_and_check", remember)
    prepare.main()
    rows = {
        name: load_prompts([tmp_path / name], dataset_type="distill", need_rewards=True)
        for name in ("train.jsonl", "val.jsonl")
    }
    words = {name: {row.messages[0]["content"] for row in found} for name, found in rows.items()}
    taught = {text.split("\n")[1].removesuffix("<|im_end|>") for text in lessons}
    assert words["val.jsonl"] == set(held_out)
    assert [len(part) for part in (words["train.jsonl"], words["val.jsonl"], taught)] == [200, 200, 200]
    assert len(words["train.jsonl"] | words["val.jsonl"] | taught) == 600


@pytest.mark.parametrize(("there", "code"), [(prepare.OUTPUTS, 0), (("train.jsonl",), 1)])
def test_what_is_there_is_left_alone(there, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare.py"])
    for name in there:
        (tmp_path / name).write_text("mine")
    with pytest.raises(SystemExit) as ended:
        prepare.main()
    assert ended.value.code == code
    assert "--force" in capsys.readouterr().out
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(there, "mine")


def test_a_mistyped_option_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--forse"])
    with pytest.raises(SystemExit) as ended:
        prepare.main()
    assert ended.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_reward_is_an_exact_match():
    from rnow import RewardArgs

    accuracy = load_module("rewards").accuracy
    args = RewardArgs(metadata={"answer": "BAMZQK"})
    question = {"role": "user", "content": "reverse KQZMAB"}
    for reply, expected in {"BAMZQK": 1.0, "BAMZQ": 0.0, "BAMZQKK": 0.0, "": 0.0}.items():
        assert accuracy(args, [question, {"role": "assistant", "content": reply}]) == expected


def test_the_config_fits_the_data(tokenizer, tmp_path):
    skill = load_skill(asset_root() / "skills" / "quickstart")
    context = {"project": {"name": 'a "b": c'}, "defaults": {}, "skill": skill.descriptor()}
    write_project(plan_project(TEMPLATE, skill, tmp_path / "project", context), force=False)
    config = load_config(tmp_path / "project" / "config.yml").config
    assert config.project_name == 'a "b": c'
    assert (config.model.path, config.teacher[0].path) == ("./student", "./teacher")
    assert config.weights.adv_tau == 0, "no reward enters the loss"
    assert config.weights.teacher_tau == config.weights.student_tau
    assert config.rollout.max_tokens > prepare.LETTERS + 1
    assert prepare.PROMPTS % config.data.batch_size == 0
    assert prepare.HELD_OUT >= 256
