"""One whole step at the size of Qwen3-0.6B on a GPU: sample, score with a second model, update."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import transformers

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.objective import PolicyObjective
from rnow_core.models.causal_lm import CausalLM, load_frozen, load_student
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.hf_sampler import HFSampler
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.optimizer import OptimizerSettings
from rnow_core.types import Batch, Completion, SamplingParams, ScoreRequest

pytestmark = pytest.mark.gpu
VOCAB = 151_936
PROMPTS, GROUP, PROMPT_TOKENS, NEW_TOKENS = 4, 8, 200, 256


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two models of Qwen3-0.6B's shape with random weights, in bfloat16."""
    config = transformers.Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        initializer_range=0.05,
    )
    made = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"qwen-{seed}")
        torch.manual_seed(seed)
        with torch.device("cuda"):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        made.append(str(folder))
        del model
    torch.cuda.empty_cache()
    return made


@pytest.fixture
def device():
    thread = DeviceThread()
    yield thread
    thread.close()


def student(folder: str, **changes: object) -> CausalLM:
    settings = {"rank": 32, "alpha": 64, "device": torch.device("cuda", 0), "gradient_checkpointing": True}
    return load_student(folder, **(settings | changes))


def make_learner(lm: CausalLM, device: DeviceThread) -> HFLearner:
    settings = OptimizerSettings(learning_rate=1e-4, total_steps=4)
    return HFLearner(
        lm, device, objective=PolicyObjective(), token_logprobs=token_logprobs, settings=settings
    )


def prompts() -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(3)
    return [
        tuple(torch.randint(VOCAB, (PROMPT_TOKENS,), generator=generator).tolist())
        for _ in range(PROMPTS)
        for _ in range(GROUP)
    ]


async def sample_all(sampler: HFSampler, asked: Sequence[tuple[int, ...]]) -> list[Completion]:
    params = SamplingParams(max_tokens=NEW_TOKENS, stop_ids=(0,))
    return list(await asyncio.gather(*(sampler.sample(ids, params, key) for key, ids in enumerate(asked))))


def to_batch(
    asked: Sequence[tuple[int, ...]], replies: Sequence[Completion], scores: list[list[float]]
) -> Batch:
    columns: dict[str, list] = {name: [] for name in ("ids", "lengths", "mask", "mu", "teacher", "task")}
    for prompt, reply, score in zip(asked, replies, scores, strict=True):
        length = len(prompt) + len(reply.ids)
        columns["ids"] += [*prompt, *reply.ids]
        columns["lengths"].append(length)
        columns["mask"] += [False] * len(prompt) + [True] * len(reply.ids)
        columns["mu"] += [0.0] * len(prompt) + [*reply.logprobs]
        columns["teacher"] += [0.0] * len(prompt) + score
        columns["task"] += [0.0] * length
    return Batch(**columns)


def mismatch_kl(old: Sequence[float], batch: Batch) -> float:
    """Token mean of exp(d) - d - 1 with d = old - mu."""
    mu = [value for value, kept in zip(batch.mu, batch.mask, strict=True) if kept]
    gaps = [a - b for a, b in zip(old, mu, strict=True)]
    return math.fsum(math.exp(gap) - gap - 1 for gap in gaps) / len(gaps)


def one_step(
    lm: CausalLM, teacher: HFTeacher, device: DeviceThread
) -> tuple[Batch, HFLearner, Callable[[], Sequence[float]]]:
    """Sample and score; returns the batch, the learner, and an update that gives the old logprobs."""
    asked = prompts()

    async def rollouts() -> Batch:
        sampler = HFSampler(lm, device, version="student-000000")
        replies = await sample_all(sampler, asked)
        await sampler.close()
        requests = [
            ScoreRequest((*prompt, *reply.ids), len(prompt))
            for prompt, reply in zip(asked, replies, strict=True)
        ]
        return to_batch(asked, replies, await teacher.score(requests))

    batch = asyncio.run(rollouts())
    learner = make_learner(lm, device)
    return batch, learner, lambda: learner.update(batch, 1).columns["old"]


def test_one_step_with_a_second_model_as_teacher(
    folders: list[str], device: DeviceThread, record_property: Callable[[str, object], None]
) -> None:
    torch.cuda.reset_peak_memory_stats()
    lm = student(folders[0])
    teacher = HFTeacher(
        load_frozen(folders[1], device=torch.device("cuda", 0)), device, token_logprobs=token_logprobs
    )
    assert lm.dtype == torch.bfloat16
    before = {name: weight.clone() for name, weight in lm.trainable_parameters().items()}
    batch, learner, update = one_step(lm, teacher, device)
    old = update()
    gap = mismatch_kl(old, batch)
    peak = torch.cuda.max_memory_allocated() / 2**30
    record_property("peak_memory_gib", peak)
    record_property("mismatch_kl", gap)
    print(f"\npeak memory {peak:.2f} GiB, mismatch_kl {gap:.2e}, trained tokens {batch.trained_tokens}")
    assert gap < 0.01
    # two models of 1.2 GB; the logits of the batch alone would be another 4.6 GiB in float32
    assert peak < 8
    changed = [
        name for name, weight in lm.trainable_parameters().items() if not torch.equal(weight, before[name])
    ]
    assert len(changed) >= len(before) // 2  # the random halves move once the zero halves have
    assert {weight.dtype for weight in lm.trainable_parameters().values()} == {torch.float32}
    assert learner.publish(None).name == "student-000001"


def test_self_as_teacher_has_no_kl_at_the_start(folders: list[str], device: DeviceThread) -> None:
    lm = student(folders[0])
    teacher = HFTeacher(lm, device, token_logprobs=token_logprobs, wearing=lm.adapter_off)
    batch, _, update = one_step(lm, teacher, device)
    teacher_logp = [value for value, kept in zip(batch.teacher, batch.mask, strict=True) if kept]
    gaps = [a - b for a, b in zip(update(), teacher_logp, strict=True)]
    assert abs(math.fsum(gaps) / len(gaps)) < 1e-3


def test_all_weights_train_in_mixed_precision(
    folders: list[str], device: DeviceThread, tmp_path: Path
) -> None:
    lm = student(folders[0], rank=0)
    teacher = HFTeacher(
        load_frozen(folders[1], device=torch.device("cuda", 0)), device, token_logprobs=token_logprobs
    )
    batch, learner, update = one_step(lm, teacher, device)
    assert mismatch_kl(update(), batch) < 0.01
    learner.save(tmp_path)
    learner.load(tmp_path)
    assert {weight.dtype for weight in lm.trainable_parameters().values()} == {torch.float32}
