"""Which GPU does what: by the number of GPUs, by what the config names, by what fits."""

import json
from dataclasses import asdict, replace

import pytest
from tiny import tiny_config

from rnow_core.build.gpu_share import GIB, SERVER_OVERHEAD, Needs
from rnow_core.build.placement import Parallel, Placement, engine_of, place, server_memory
from rnow_core.config.schema import Config
from rnow_core.errors import UsageError

SMALL = Needs(
    gpu_memory=80 * GIB,
    student_weights=3 * GIB,
    teacher_weights=16 * GIB,
    trainer_resident=5 * GIB,
    trainer_peak=15 * GIB,
    token_bytes=100_000,
    step_tokens=64 * 2048,
    longest=2048,
)
LARGE = replace(
    SMALL,
    student_weights=16 * GIB,
    teacher_weights=40 * GIB,
    trainer_resident=20 * GIB,
    trainer_peak=30 * GIB,
)
NO_TEACHER = replace(SMALL, teacher_weights=0)


def config(**sections):
    return Config.model_validate(tiny_config(**sections))


def placed(gpus, needs=SMALL, engine="vllm", **sections):
    return place(config(**sections), engine, gpus, needs)


@pytest.mark.parametrize(
    ("gpus", "inference", "teacher", "trainer"),
    [
        (2, (0,), (0,), (1,)),
        (3, (0,), (1,), (2,)),
        (4, (0,), (1,), (2, 3)),
        (8, (0, 1), (2, 3), (4, 5, 6, 7)),
    ],
)
def test_gpus_are_shared_out_as_the_documents_say(gpus, inference, teacher, trainer):
    result = placed(gpus)
    assert (result.inference.gpus, result.teacher.gpus, result.trainer) == (inference, teacher, trainer)
    assert (result.sharing, result.ranks, result.async_level) == ("apart", len(trainer), 1)
    assert any("async_level" in reason for reason in result.reasons)


def test_without_a_teacher_server_its_gpus_go_to_the_others():
    result = placed(4, NO_TEACHER)
    assert (result.inference.gpus, result.teacher.gpus, result.trainer) == ((0, 1), (), (2, 3))
    assert result.inference.data == 2


def test_two_servers_on_one_gpu_get_shares_that_fit_together():
    shares = placed(2).shares
    assert shares.student + shares.teacher <= 0.95
    assert shares.teacher * 80 * GIB >= 16 * GIB + SERVER_OVERHEAD
    assert placed(3).shares.student == placed(3).shares.teacher == 0.9


def test_one_gpu_is_split_when_all_fits_and_taken_in_turns_when_not():
    split, turns = placed(1), placed(1, LARGE)
    assert split.sharing == "split"
    total = split.shares.student + split.shares.teacher + SMALL.trainer_peak / SMALL.gpu_memory
    assert total <= 0.95
    assert turns.sharing == "sleep"
    # alone, each server may have whatever the trainer does not keep
    assert turns.shares.student * 80 * GIB >= LARGE.teacher_weights
    assert turns.shares.student <= 0.94 - LARGE.trainer_resident / LARGE.gpu_memory
    assert "split" in split.reasons[0]
    assert "turns" in turns.reasons[0]
    assert (split.async_level, turns.async_level) == (0, 0)


def test_weights_that_fill_a_gpu_are_cut_over_two():
    needs = replace(SMALL, teacher_weights=120 * GIB)
    result = placed(8, needs)
    assert result.teacher == Parallel((2, 3), tensor=2, data=1)
    assert placed(4, needs).teacher.gpus == (1, 2)


def test_gpus_that_make_no_whole_copy_are_left_to_training():
    needs = replace(SMALL, student_weights=120 * GIB)
    result = placed(7, needs, resources={"teacher_gpus": [6]})
    assert result.inference == Parallel((0, 1), tensor=2, data=1)
    assert result.trainer == (2, 3, 4, 5)


def test_named_gpus_are_taken_as_they_are():
    resources = {"inference_gpus": [0, 1], "teacher_gpus": [2], "trainer_gpus": [3]}
    result = placed(4, resources=resources)
    assert result.inference == Parallel((0, 1), tensor=1, data=2)
    assert (result.teacher.gpus, result.trainer) == ((2,), (3,))
    cut = placed(4, resources={**resources, "inference_tensor_parallel": 2})
    assert (cut.inference.tensor, cut.inference.data) == (2, 1)


def test_what_is_not_named_gets_the_gpus_that_are_left():
    result = placed(4, resources={"trainer_gpus": [0]})
    assert result.trainer == (0,)
    assert {*result.inference.gpus, *result.teacher.gpus} == {1, 2, 3}


@pytest.mark.parametrize(
    ("gpus", "sections", "words"),
    [
        (1, {"resources": {"inference_gpus": [3]}}, ["GPU 3", "1 GPU(s)"]),
        (0, {"resources": {"trainer_gpus": [0]}}, ["GPU 0", "no GPU"]),
        (2, {"resources": {"inference_gpus": [0], "trainer_gpus": [1]}}, ["0 of 2 GPU(s)", "teacher"]),
        (
            4,
            {
                "resources": {
                    "inference_gpus": [0, 1],
                    "inference_tensor_parallel": 3,
                    "teacher_gpus": [2],
                    "trainer_gpus": [3],
                }
            },
            ["3 x 1", "2 GPU(s)"],
        ),
        (
            2,
            {"resources": {"inference_gpus": [0], "teacher_gpus": [1], "trainer_gpus": [1]}},
            ["GPU 1", "train and serve"],
        ),
        (
            4,
            {
                "resources": {
                    "inference_gpus": [0],
                    "teacher_gpus": [1],
                    "trainer_gpus": [2, 3],
                    "trainer_data_parallel": 3,
                }
            },
            ["trainer_data_parallel is 3", "2 GPU(s)"],
        ),
        (2, {"model": {"qlora_rank": 0}, "trainer": {"async_level": 1}}, ["two versions"]),
    ],
)
def test_what_cannot_be_placed_is_an_error(gpus, sections, words):
    with pytest.raises(UsageError) as caught:
        placed(gpus, **sections)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert caught.value.hint


def test_overlap_is_refused_where_it_cannot_be():
    with pytest.raises(UsageError, match="at once"):
        placed(1, LARGE, trainer={"async_level": 1})
    with pytest.raises(UsageError, match="shares its thread"):
        placed(0, engine="hf", trainer={"async_level": 1})
    assert placed(0, trainer={"async_level": 1}).async_level == 1
    assert placed(4, trainer={"async_level": 0}).async_level == 0


def test_without_a_gpu_ranks_are_what_was_asked_for():
    assert placed(0, engine="hf").ranks == 1
    assert placed(0, engine="hf", resources={"trainer_data_parallel": 2}).ranks == 2


def test_a_teacher_gpu_without_a_teacher_server_is_an_error():
    with pytest.raises(UsageError, match="no teacher server"):
        placed(4, NO_TEACHER, resources={"teacher_gpus": [1]})


@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
def test_a_placement_survives_json(gpus):
    result = placed(gpus)
    assert Placement.stored(json.loads(json.dumps(asdict(result)))) == result


def test_a_server_that_does_not_fit_is_seen():
    too_large = replace(LARGE, teacher_weights=90 * GIB)
    memory = server_memory(placed(1, too_large), too_large)
    assert memory["teacher"]["given"] < memory["teacher"]["least"]
    assert memory["student"]["given"] >= memory["student"]["least"]


def test_auto_means_vllm_for_servers_elsewhere_and_hf_without_a_gpu():
    assert engine_of(config(), has_gpu=False) == "hf"
    elsewhere = config(teacher={"path": "./teacher", "url": "http://localhost:1"})
    assert engine_of(elsewhere, has_gpu=False) == "vllm"
