"""Scoring against the plain full-logit computation; the teachers; ids beyond the rows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
import torch
import transformers

from rnow_core.algo.head import token_logprobs
from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.causal_lm import load_frozen, load_student
from rnow_core.models.device import DeviceThread, memory_errors
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.scoring import score
from rnow_core.types import ScoreRequest

CPU = torch.device("cpu")


@pytest.fixture
def device():
    thread = DeviceThread()
    yield thread
    thread.close()


def requests(count: int = 13, vocab: int = 97) -> list[ScoreRequest]:
    stream = random.Random(0)
    made = []
    for _ in range(count):
        ids = tuple(stream.randrange(vocab) for _ in range(stream.randint(2, 40)))
        made.append(ScoreRequest(ids, stream.randint(1, len(ids))))
    return [*made, ScoreRequest((4, 5, 6), 3)]


def naive(path: str, request: ScoreRequest) -> list[float]:
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    ids = torch.tensor(request.ids)
    with torch.no_grad():
        logp = torch.log_softmax(model(ids[None]).logits[0].double(), dim=-1)
    return [logp[t - 1, ids[t]].item() for t in range(request.start, len(ids))]


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "cohere"])
def test_scores_equal_the_full_softmax_in_any_micro_batch(
    kind: str, model_folder: Callable[..., str]
) -> None:
    lm = load_frozen(model_folder(kind), device=CPU)
    expected = [naive(model_folder(kind), request) for request in requests()]
    for budget in (1, 70, 10_000):
        got = score(lm, requests(), token_logprobs, budget)
        assert [len(row) for row in got] == [len(row) for row in expected]
        for row, reference in zip(got, expected, strict=True):
            assert row == pytest.approx(reference, abs=2e-5)


def test_nothing_to_score(model_folder: Callable[..., str]) -> None:
    lm = load_frozen(model_folder(), device=CPU)
    assert score(lm, [], token_logprobs, 100) == []
    assert score(lm, [ScoreRequest((1, 2), 2)], token_logprobs, 100) == [[]]


def test_start_outside_the_ids(model_folder: Callable[..., str]) -> None:
    lm = load_frozen(model_folder(), device=CPU)
    for start in (0, 3):
        with pytest.raises(ValueError, match=rf"start is {start}, expected 1 to 2"):
            score(lm, [ScoreRequest((1, 2), start)], token_logprobs, 100)


def test_an_id_beyond_the_teachers_rows_is_an_error(
    model_folder: Callable[..., str], device: DeviceThread
) -> None:
    teacher = HFTeacher(
        load_frozen(model_folder(vocab=61), device=CPU), device, token_logprobs=token_logprobs
    )
    with pytest.raises(RnowError, match="id 61 is beyond the 61 rows"):
        asyncio.run(teacher.score([ScoreRequest((3, 61), 1)]))


def test_self_teacher_equals_a_fresh_student_and_stays_the_base(
    model_folder: Callable[..., str], device: DeviceThread
) -> None:
    lm = load_student(model_folder(), rank=4, alpha=8, device=CPU)
    teacher = HFTeacher(lm, device, token_logprobs=token_logprobs, wearing=lm.adapter_off)
    fresh = score(lm, requests(), token_logprobs, 500)
    assert asyncio.run(teacher.score(requests())) == [pytest.approx(row, abs=1e-6) for row in fresh]
    with torch.no_grad():
        for weight in lm.trainable_parameters().values():
            weight.add_(0.3)
    assert asyncio.run(teacher.score(requests())) == [pytest.approx(row, abs=1e-6) for row in fresh]
    moved = score(lm, requests(), token_logprobs, 500)
    assert (
        max(abs(a - b) for new, old in zip(moved, fresh, strict=True) for a, b in zip(new, old, strict=True))
        > 0.1
    )


def test_self_teacher_without_an_adapter_fails_at_once(
    model_folder: Callable[..., str], device: DeviceThread
) -> None:
    lm = load_student(model_folder(), rank=0, alpha=8, device=CPU)
    with pytest.raises(RnowError, match=r"teacher\.path: self"):
        HFTeacher(lm, device, token_logprobs=token_logprobs, wearing=lm.adapter_off)


def test_broken_weights_are_named_instead_of_scored(model_folder: Callable[..., str]) -> None:
    lm = load_frozen(model_folder(), device=CPU)
    with torch.no_grad():
        next(lm.model.parameters()).fill_(float("nan"))
    with pytest.raises(RnowError, match="not finite"):
        score(lm, requests(), token_logprobs, 500)


def test_running_out_of_memory_says_what_to_change() -> None:
    with (
        pytest.raises(RunFailed, match="out of GPU memory while scoring") as caught,
        memory_errors("scoring", "do"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
    assert "more" not in caught.value.message
    assert caught.value.hint == "do"
    with pytest.raises(RunFailed, match="out of memory"), memory_errors("scoring", "do"):
        torch.empty(2**56)
    with pytest.raises(RuntimeError, match="other"), memory_errors("scoring", "do"):
        raise RuntimeError("other")


def test_device_thread_keeps_order_and_may_call_itself(device: DeviceThread) -> None:
    seen: list[int] = []

    async def many() -> None:
        await asyncio.gather(*(device.run(seen.append, number) for number in range(50)))

    asyncio.run(many())
    assert seen == list(range(50))
    assert device.call(device.call, max, 3, 4) == 4
    with pytest.raises(ZeroDivisionError):
        device.call(lambda: 1 / 0)
    device.set_threads(1)
    assert device.call(torch.get_num_threads) == 1
