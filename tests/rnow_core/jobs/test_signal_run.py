"""Whole runs with `signal: topk` and `full`: one step against plain torch, ranks, resume, metrics."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_model, make_project, row, write_rows
from transformers import AutoModelForCausalLM, GenerationConfig

from rnow_core.errors import FindingsError, Interrupted
from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import read_metrics

RATE = 0.01
ADAM = {"lr": RATE, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """All weights train (rank 0), three steps, no rewards to run."""
    folder = make_project(
        tmp_path_factory.mktemp("project"),
        rows=8,
        data={"batch_size": 4, "group_size": 2, "val_file": None},
        model={"path": "./student", "qlora_rank": 0},
        trainer={"max_steps": 2, "save_step": 1, "learning_rate": RATE},
        eval=None,
    )
    write_rows(folder / "train.jsonl", [row(f"{i}+{i}=?", rewards=None) for i in range(8)])
    return folder


def run(
    project: Path, name: str, *overrides: str, resume: bool = False, stop: StopSignal | None = None, emit=None
):
    train(
        project,
        overrides=[] if resume else ["algorithm.kl_penalty_coef=0.3", *overrides],
        name=name,
        resume=resume,
        emit=emit or (lambda event: None),
        stop=stop or StopSignal(),
    )
    return project / "runs" / name


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    checkpoint = folder / "checkpoints" / f"step_{step:06d}"
    files = [*checkpoint.glob("adapter_model.safetensors"), *checkpoint.glob("model*.safetensors")]
    return load_file(files[0])


def first_step(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rollouts" / "step_000001.jsonl").open()]


def divergence_of(kind: str, log_a: torch.Tensor, log_b: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    a, b = log_a.exp(), log_b.exp()
    if kind == "reverse":
        return (a * (log_a - log_b)).sum(-1)
    if kind == "forward":
        return (b * (log_b - log_a)).sum(-1)
    log_m = ((1 - beta) * a + beta * b).log()
    return (beta * b * (log_b - log_m) + (1 - beta) * a * (log_a - log_m)).sum(-1)


def events(student: torch.Tensor, teacher: torch.Tensor, sampled: int, k: int | None):
    """Log probabilities of both over the events of one position; k None is the whole vocabulary."""
    if k is None:
        return student, teacher
    support = sorted({*teacher.topk(k).indices.tolist(), sampled})
    rest = [v for v in range(len(student)) if v not in support]
    tail = (1 - teacher[support].exp().sum()).clamp(min=1e-6).log()
    return (
        torch.cat([student[support], student[rest].logsumexp(0)[None]]),
        torch.cat([teacher[support], tail[None]]),
    )


def plain_step(project: Path, records: list[dict], kind: str, k: int | None):
    """Weights after one step on the recorded rollouts by AdamW on the mean divergence, its gradients and value."""
    student, teacher = (load(project / name) for name in ("student", "teacher"))
    optimizer = torch.optim.AdamW(student.parameters(), **ADAM)
    mean = divergences(student, teacher, records, kind, k).mean()
    (0.3 * mean).backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    gradients = {name: weight.grad for name, weight in student.named_parameters()}
    return student.state_dict(), gradients, mean.item()


def load(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def plain_divergence(
    models: tuple[Path, Path], records: list[dict], kind: str, k: int | None
) -> torch.Tensor:
    """The divergence at every trained token of recorded rollouts, from two model folders."""
    return divergences(*map(load, models), records, kind, k)


def divergences(student, teacher, records: list[dict], kind: str, k: int | None) -> torch.Tensor:
    values = []
    for record in records:
        ids, start = torch.tensor([record["prompt_ids"] + record["ids"]]), len(record["prompt_ids"])
        mine = student(ids).logits[0, start - 1 : -1].log_softmax(-1)
        with torch.no_grad():
            other = teacher(ids).logits[0, start - 1 : -1].log_softmax(-1)
        for n, (sampled, trained) in enumerate(zip(record["ids"], record["mask"], strict=True)):
            if trained:
                values.append(divergence_of(kind, *events(mine[n], other[n], sampled, k)))
    return torch.stack(values)


CASES = {
    "full reverse": (["algorithm.signal=full"], "reverse", None),
    "full jsd": (["algorithm.signal=full", "algorithm.divergence=jsd"], "jsd", None),
    "topk reverse": (["algorithm.signal=topk", "algorithm.topk=5"], "reverse", 5),
    "topk forward": (
        ["algorithm.signal=topk", "algorithm.topk=3", "algorithm.divergence=forward"],
        "forward",
        3,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_step_is_that_of_plain_torch(project, case):
    overrides, kind, k = CASES[case]
    folder = run(project, case.replace(" ", "-"), *overrides)
    expected, gradients, value = plain_step(project, first_step(folder), kind, k)
    got = weights(folder, 1)
    for name, gradient in gradients.items():
        # Adam's first step has the size of the rate whatever the gradient's: where that is noise, so is the step
        sure = gradient.abs() > 3e-5
        assert sure.float().mean() > 0.5, name
        torch.testing.assert_close(got[name][sure], expected[name][sure], atol=1e-6, rtol=0)
    first = read_metrics(folder / "metrics.jsonl")[0]
    assert first["divergence"] == pytest.approx(value, rel=1e-5)
    assert first["loss/policy"] == pytest.approx(0.3 * value, rel=1e-5)
    assert first["teacher_kl"] > 0
    assert first["advantage/std"] == 0
    assert "advantage/teacher" not in first
    assert all(len(record["divergence"]) == len(record["ids"]) for record in first_step(folder))


def test_the_whole_vocabulary_as_top_ids_is_full(project):
    """48 ids, of which topk's default of 64 takes all."""
    whole, top = run(project, "whole", "algorithm.signal=full"), run(project, "top", "algorithm.signal=topk")
    for name, weight in weights(whole, 2).items():
        gap = (weights(top, 2)[name] - weight).abs().flatten()
        assert gap.quantile(0.98) < 1e-5, name


def test_a_resumed_run_ends_with_the_same_bytes(project):
    overrides = ["algorithm.signal=topk", "algorithm.topk=4", "model.qlora_rank=4"]
    undisturbed, stop = run(project, "undisturbed", *overrides), StopSignal()

    def stop_after_one(event):
        if event.kind == "step":
            stop.request()

    with pytest.raises(Interrupted):
        run(project, "stopped", *overrides, stop=stop, emit=stop_after_one)
    resumed = run(project, "stopped", resume=True)
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        last = f"checkpoints/step_000002/{name}"
        assert (resumed / last).read_bytes() == (undisturbed / last).read_bytes()


def test_a_hybrid_run_uses_both_parts(tmp_path):
    folder = make_project(tmp_path, rows=4, trainer={"max_steps": 1, "learning_rate": 0.01})
    signal = ["algorithm.signal=full", "algorithm.adv_tau=0.5"]
    train(folder, overrides=signal, name="hybrid", resume=False, emit=lambda event: None, stop=StopSignal())
    steps = [
        line for line in read_metrics(folder / "runs" / "hybrid" / "metrics.jsonl") if "divergence" in line
    ]
    assert steps[0]["divergence"] > 0
    assert steps[0]["advantage/reward_std"] > 0
    assert steps[0]["loss/policy"] != pytest.approx(0.5 * steps[0]["divergence"], rel=1e-6)


def test_a_teacher_that_is_the_student_teaches_nothing(project):
    """`self`: the student's own head reads the teacher's hidden states; the first step's gradient is zero."""
    folder = run(project, "self", "algorithm.signal=full", "teacher.path=self", "model.qlora_rank=4")
    first = read_metrics(folder / "metrics.jsonl")[0]
    assert first["divergence"] == pytest.approx(0.0, abs=1e-9)
    assert first["grad_norm"] < 1e-6


def test_a_teacher_with_padded_rows_teaches_the_same_either_way(tmp_path):
    """The tokenizer and the student have 48 rows, the teacher 64: what it gives its padding is dropped by both."""
    folder = make_project(
        tmp_path, rows=4, trainer={"max_steps": 1}, data={"batch_size": 4, "val_file": None}, eval=None
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher")
    model.resize_token_embeddings(64, mean_resizing=False)
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder / "teacher")
    found = []
    for signal in ("full", "topk"):
        ran = run(folder, signal, f"algorithm.signal={signal}", "algorithm.divergence=forward")
        found.append(read_metrics(ran / "metrics.jsonl")[0]["divergence"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_what_a_server_cannot_give_is_refused_before_anything_is_spent(project):
    make_model(project / "other", seed=3)
    for overrides, path in (
        (["algorithm.signal=full"], "algorithm.signal"),
        (["algorithm.signal=topk", "algorithm.topk=200"], "algorithm.topk"),
        (["algorithm.signal=topk", "algorithm.topk=128", "data.group_size=4096"], "algorithm.topk"),
    ):
        with pytest.raises(FindingsError) as error:
            run(project, "refused", "rollout.engine=vllm", *overrides)
        assert ("RN307", path) in {(finding.code, finding.path) for finding in error.value.findings}
