"""Contradictions in a config: what the types of single keys cannot say. Each rule yields errors only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rnow_core.config.facts import api_maker, looks_like_a_path, right_case
from rnow_core.config.problems import KeyPath, Problem
from rnow_core.config.quantized import quantized_weights
from rnow_core.config.schema import Config

TYPE: KeyPath = ("dataset_type",)
TAUS = ("adv_tau", "teacher_tau", "student_tau")


def contradictions(config: Config, root: Path | None = None) -> list[Problem]:
    """Every contradiction in a config without stages. `root`: folder that relative model paths start from."""
    problems = [problem for rule in RULES for problem in rule(config)]
    return problems + list(model_names(config, root))


def teacher_presence(config: Config) -> Iterator[Problem]:
    """`distill` needs a teacher, `rl` has none."""
    if config.dataset_type == "distill" and not config.teacher:
        hint = "add teacher.path: a Hugging Face id, a folder, or self"
        yield Problem("RN110", ("teacher",), "`dataset_type: distill` needs a `teacher`", hint, also=(TYPE,))
    if config.dataset_type == "rl" and config.teacher:
        message = "`teacher` and `dataset_type: rl` exclude each other: rl learns from rewards only"
        hint = "remove teacher, or set dataset_type: distill (with algorithm.adv_tau for the rewards' share)"
        yield Problem("RN111", ("teacher",), message, hint, also=(TYPE,))


def rl_without_teacher_keys(config: Config) -> Iterator[Problem]:
    """Weights and signals of a teacher have no meaning in `rl`."""
    algorithm = config.algorithm
    if config.dataset_type != "rl":
        return
    used = {
        "kl_penalty_coef": algorithm.kl_penalty_coef is not None,
        "teacher_tau": bool(algorithm.teacher_tau),
        "student_tau": bool(algorithm.student_tau),
        "signal": algorithm.signal != "sampled",
    }
    for key in (key for key, is_set in used.items() if is_set):
        message = f"`algorithm.{key}` needs a teacher, and `dataset_type: rl` has none"
        yield Problem("RN111", ("algorithm", key), message, f"remove {key}", also=(TYPE,))


def one_spelling_of_weights(config: Config) -> Iterator[Problem]:
    """`kl_penalty_coef` already says all three taus."""
    algorithm = config.algorithm
    taus = [name for name in TAUS if getattr(algorithm, name) is not None]
    if config.dataset_type == "distill" and algorithm.kl_penalty_coef is not None and taus:
        b = algorithm.kl_penalty_coef
        names = ", ".join(f"`algorithm.{name}`" for name in taus)
        message = f"`algorithm.kl_penalty_coef` and {names} are two spellings of the same weights"
        hint = f"keep one: kl_penalty_coef: {b:g} means adv_tau 0, teacher_tau {b:g}, student_tau {b:g}"
        also = tuple(("algorithm", name) for name in taus)
        yield Problem("RN112", ("algorithm", "kl_penalty_coef"), message, hint, also=also)


def something_to_learn_from(config: Config) -> Iterator[Problem]:
    """The weights must leave a signal."""
    weights = config.weights
    if config.dataset_type == "rl" and weights.adv_tau == 0:
        message = "`algorithm.adv_tau: 0` with `dataset_type: rl` leaves nothing to learn from"
        yield Problem("RN113", ("algorithm", "adv_tau"), message, "remove adv_tau", also=(TYPE,))
    if config.dataset_type == "distill" and weights.adv_tau == 0 and weights.teacher_tau == 0:
        message = "`teacher_tau: 0` and `adv_tau: 0` leave nothing to learn from"
        also = (("algorithm", "adv_tau"),)
        yield Problem("RN113", ("algorithm", "teacher_tau"), message, "set teacher_tau above 0", also=also)


def groups_of_one(config: Config) -> Iterator[Problem]:
    """Reward minus the group's mean is always 0 in a group of one."""
    if config.dataset_type != "sft" and config.data.group_size == 1 and config.weights.adv_tau > 0:
        key = "dataset_type: rl" if config.dataset_type == "rl" else "algorithm.adv_tau"
        message = f"with `data.group_size: 1` the task advantage of `{key}` is always 0"
        also = (TYPE, ("algorithm", "adv_tau"))
        yield Problem("RN114", ("data", "group_size"), message, "set group_size to 2 or more", also=also)


def divergence_as_loss(config: Config) -> Iterator[Problem]:
    """`topk` and `full` are losses: what shapes an advantage does not apply to them, and the reverse."""
    algorithm, weights = config.algorithm, config.weights
    if algorithm.signal == "sampled":
        if algorithm.divergence != "reverse":
            message = f"`divergence: {algorithm.divergence}` needs `signal: topk` or `full`, not `sampled`"
            path = ("algorithm", "divergence")
            yield Problem("RN115", path, message, "set algorithm.signal", also=(("algorithm", "signal"),))
        return
    shaped = {"clip_min": None, "clip_max": None, "kl_discount": 0.0}
    for key in (key for key, unset in shaped.items() if getattr(algorithm, key) != unset):
        message = f"`{key}` shapes advantages, and `signal: {algorithm.signal}` is a loss of its own"
        also = (("algorithm", "signal"),)
        yield Problem("RN115", ("algorithm", key), message, f"remove {key}", also=also)
    if weights.teacher_tau != weights.student_tau:
        message = (
            f"`signal: {algorithm.signal}` has one weight for the divergence: `teacher_tau` "
            f"({weights.teacher_tau:g}) and `student_tau` ({weights.student_tau:g}) must be equal"
        )
        both: tuple[KeyPath, ...] = (("algorithm", "student_tau"), ("algorithm", "signal"))
        yield Problem("RN115", ("algorithm", "teacher_tau"), message, "set both to the same", also=both)


def rewards_switched_off(config: Config) -> Iterator[Problem]:
    """`skip_verification` computes no rewards; a task advantage needs them."""
    adv_tau = config.weights.adv_tau
    if config.algorithm.skip_verification and adv_tau > 0:
        message = f"`skip_verification: true` computes no rewards, and `adv_tau` is {adv_tau:g}"
        also = (("algorithm", "adv_tau"),)
        hint = "set adv_tau: 0 or remove skip_verification"
        yield Problem("RN116", ("algorithm", "skip_verification"), message, hint, also=also)


def full_fine_tuning(config: Config) -> Iterator[Problem]:
    """Rank 0 has no adapter: nothing to take off, start from or average, and no frozen base."""
    if config.model.qlora_rank > 0:
        if config.model.qlora_alpha == 0:
            path = ("model", "qlora_alpha")
            yield Problem("RN103", path, "an adapter with alpha 0 changes nothing", "remove qlora_alpha")
        return
    also = (("model", "qlora_rank"),)
    hint = "set model.qlora_rank above 0, or remove it for the default of 32"
    for index, teacher in enumerate(config.teacher):
        if teacher.path == "self":
            message = (
                "`teacher.path: self` is the student without its adapter, and `model.qlora_rank: 0` has none"
            )
            yield Problem("RN117", ("teacher", index, "path"), message, hint, also=also)
        if teacher.ema is not None:
            message = "`teacher.ema` averages the student's adapter, and `model.qlora_rank: 0` has none"
            yield Problem("RN118", ("teacher", index, "ema"), message, hint, also=also)
    for key in ("adapter", "quantization"):
        if getattr(config.model, key) is not None:
            message = f"`model.{key}` needs an adapter to train, and `model.qlora_rank: 0` trains all weights"
            yield Problem("RN118", ("model", key), message, hint, also=also)


def teachers_apart(config: Config) -> Iterator[Problem]:
    """Several teachers need names, each its own; one teacher has one context and one set of weights."""
    seen: set[str] = set()
    for index, teacher in enumerate(config.teacher):
        if len(config.teacher) > 1 and teacher.name is None:
            hint = "rows choose a teacher by this name"
            yield Problem(
                "RN119", ("teacher", index, "name"), "each of several teachers needs a `name`", hint
            )
        if teacher.name in seen:
            message = f"two teachers are called `{teacher.name}`"
            yield Problem("RN119", ("teacher", index, "name"), message, "give each its own name")
        seen |= {teacher.name} if teacher.name else set()
        for first, second in (("context", "context_file"), ("adapter", "ema")):
            if getattr(teacher, first) is not None and getattr(teacher, second) is not None:
                message = f"`teacher.{first}` and `teacher.{second}` exclude each other"
                also = (("teacher", index, first),)
                yield Problem("RN123", ("teacher", index, second), message, "keep one", also=also)
        if teacher.ema is not None and teacher.path != "self":
            message = "`teacher.ema` averages the student's own adapter, so it needs `teacher.path: self`"
            also = (("teacher", index, "path"),)
            yield Problem("RN123", ("teacher", index, "ema"), message, "set teacher.path: self", also=also)


def evaluation_sources(config: Config) -> Iterator[Problem]:
    """One source of held-out rows, and one at all when something asks for an evaluation."""
    given: dict[KeyPath, object] = {
        ("data", "val_file"): config.data.val_file,
        ("data", "val_split"): config.data.val_split,
        ("eval", "file"): config.eval.file,
    }
    paths = [path for path, value in given.items() if value is not None]
    if len(paths) > 1:
        names = " and ".join(f"`{'.'.join(map(str, path))}`" for path in paths)
        message = f"{names} are sources of the same held-out rows"
        yield Problem("RN123", paths[-1], message, "keep one", also=tuple(paths[:-1]))
    wishes: dict[KeyPath, bool] = {("trainer", "eval_step"): config.trainer.eval_step is not None}
    for index, teacher in enumerate(config.teacher):
        wishes["teacher", index, "eval_baseline"] = teacher.eval_baseline
    for path in (path for path, wished in wishes.items() if wished and not paths):
        message = f"`{path[-1]}` asks for an evaluation, and there is no file to evaluate on"
        yield Problem("RN125", path, message, "set data.val_file", also=tuple(given))
    yield from _early_end(config)


def _early_end(config: Config) -> Iterator[Problem]:
    """Ending when the gap is closed needs the gap, and evaluations during the run."""
    path = ("eval", "stop_at_gap_closed")
    baseline: KeyPath = ("teacher", 0, "eval_baseline") if config.teacher else ("teacher",)
    measured = {
        baseline: any(teacher.eval_baseline for teacher in config.teacher),
        ("trainer", "eval_step"): config.trainer.eval_step is not None,
    }
    for missing in (also for also, there in measured.items() if not there):
        if config.eval.stop_at_gap_closed is not None:
            hint = "set teacher.eval_baseline: true" if missing is baseline else "set trainer.eval_step"
            what = "the gap before step 1" if missing is baseline else "evaluations during the run"
            message = f"`stop_at_gap_closed` needs {what}"
            yield Problem("RN127", path, message, hint, also=(missing,))


def lengths(config: Config) -> Iterator[Problem]:
    """Bounds that leave no room between them."""
    algorithm = config.algorithm
    window = config.rollout.max_context_window if config.dataset_type != "sft" else None
    low, high = algorithm.clip_min, algorithm.clip_max
    if low is not None and high is not None and low >= high:
        message = f"`clip_min` ({low:g}) must be below `clip_max` ({high:g})"
        also = (("algorithm", "clip_max"),)
        yield Problem("RN124", ("algorithm", "clip_min"), message, "for example -5 and 5", also=also)
    replies = {
        ("rollout", "max_tokens"): config.rollout.max_tokens,
        ("eval", "max_tokens"): config.eval.max_tokens,
    }
    for path, tokens in replies.items():
        if window is not None and tokens is not None and tokens >= window:
            message = f"{tokens} tokens of reply leave no room for a prompt in `max_context_window: {window}`"
            also = (("rollout", "max_context_window"),)
            yield Problem("RN124", path, message, f"set {'.'.join(path)} below {window}", also=also)
    largest = max(config.eval.pass_at)
    if largest > config.eval.group_size:
        message = f"pass@{largest} needs {largest} samples, and `eval.group_size` is {config.eval.group_size}"
        also = (("eval", "group_size"),)
        yield Problem("RN124", ("eval", "pass_at"), message, f"set eval.group_size: {largest}", also=also)


def model_names(config: Config, root: Path | None) -> Iterator[Problem]:
    """Models that exist behind an API only, and ids in another case."""
    named: list[tuple[KeyPath, str]] = [(("model", "path"), config.model.path)]
    named += [(("teacher", index, "path"), teacher.path) for index, teacher in enumerate(config.teacher)]
    for path, name in named:
        if looks_like_a_path(name) or (root is not None and (root / name).is_dir()):
            continue
        maker, known = api_maker(name), right_case(name)
        if maker and path[0] == "model":
            message = f"`{name}` cannot be trained: {maker} does not publish its weights"
            yield Problem("RN122", path, message, "use an open model, for example Qwen/Qwen3-8B", at="value")
        elif maker and config.dataset_type == "distill":
            yield _unsupported_teacher(path, name, maker)
        elif known:
            message = f"`{name}` is not a model id: ids are case-sensitive"
            yield Problem("RN121", path, message, f"did you mean `{known}`?", at="value")


def _unsupported_teacher(path: KeyPath, name: str, maker: str) -> Problem:
    message = (
        f"Unsupported teacher model `{name}`: {maker}'s API returns no logprobs for given tokens, "
        "and on-policy distillation scores the student's own tokens"
    )
    hint = (
        "use an open model (for example Qwen/Qwen3-32B), or distil off-policy: generate its replies "
        "and train on them with dataset_type: sft (template off-distill, skill off-policy-distillation)"
    )
    return Problem("RN120", path, message, hint, also=(TYPE,), at="value")


def rollback_target(config: Config) -> Iterator[Problem]:
    """A rollback goes back to the best evaluated step, so there must be evaluations during the run."""
    if config.dataset_type == "sft" or config.stability.action != "rollback":
        return
    if config.trainer.eval_step is None:
        message = (
            "`action: rollback` goes back to the best evaluated step, and nothing is evaluated during the run"
        )
        also = (("trainer", "eval_step"),)
        hint = "set trainer.eval_step and data.val_file"
        yield Problem("RN128", ("stability", "action"), message, hint, also=also)


RULES: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    teacher_presence,
    rl_without_teacher_keys,
    one_spelling_of_weights,
    something_to_learn_from,
    groups_of_one,
    divergence_as_loss,
    rewards_switched_off,
    full_fine_tuning,
    quantized_weights,
    teachers_apart,
    evaluation_sources,
    rollback_target,
    lengths,
)
