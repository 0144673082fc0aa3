import pytest


def notes(project, *overrides):
    return {(f.code, f.path): f for f in project.load(*overrides).findings}


@pytest.mark.parametrize(
    ("overrides", "code", "path", "words"),
    [
        (["algorithm.adv_tau=0", "algorithm.teacher_tau=1"], "RN130", "algorithm.student_tau", "power 2"),
        (["algorithm.adv_tau=0", "algorithm.student_tau=0"], "RN130", "algorithm.student_tau", "collapses"),
        (["algorithm.kl_penalty_coef=1"], "RN131", "algorithm.kl_penalty_coef", "Adam"),
        (["rollout.temperature=0.7"], "RN132", "rollout.temperature", "biased"),
        (["rollout.top_p=0.9"], "RN132", "rollout.top_p", "biased"),
        (["algorithm.topk=8"], "RN133", "algorithm.topk", "signal: topk"),
        (["algorithm.beta_jsd=0.1"], "RN133", "algorithm.beta_jsd", "jsd"),
        (["logging.wandb_name=x"], "RN133", "logging.wandb_name", "wandb_project"),
        (["algorithm.adv_tau=1", "algorithm.teacher_tau=0"], "RN133", "algorithm.teacher_tau", "measured"),
        (["dataset_type=sft"], "RN133", "teacher", "sft"),
        (["dataset_type=sft", "algorithm.adv_tau=1"], "RN133", "algorithm", "cross-entropy"),
        (["dataset_type=sft", "stability.patience=5"], "RN133", "stability", "watch"),
        (["stability.max_rollbacks=1"], "RN133", "stability.max_rollbacks", "rollback"),
        (["trainer.train_on=last_assistant"], "RN133", "trainer.train_on", "sft"),
        (["teacher.context_role=system"], "RN133", "teacher.context_role", "context"),
        (["teacher.path=self"], "RN134", "teacher.path", "nothing to learn"),
    ],
)
def test_a_consequence_is_said_and_does_not_stop_the_load(project, overrides, code, path, words):
    note = notes(project, *overrides)[code, path]
    assert words in note.message
    assert note.severity in ("warning", "info")


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.kl_penalty_coef=0.1"],
        ["algorithm.adv_tau=0", "algorithm.teacher_tau=1", "algorithm.student_tau=1"],
        ["teacher.path=self", "teacher.context=Think.", "algorithm.adv_tau=0"],
        ["teacher.path=self", "model.adapter=./a"],
        ["algorithm.signal=topk", "algorithm.topk=8"],
        ["logging.wandb_name=x", "logging.wandb_project=y"],
    ],
)
def test_an_ordinary_config_is_not_commented(project, overrides):
    assert notes(project, *overrides) == {}
