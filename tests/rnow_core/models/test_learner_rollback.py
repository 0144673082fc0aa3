"""A learner that takes an earlier checkpoint's weights behind a later step."""

from collections.abc import Callable
from pathlib import Path

from learner_reference import make_batch

from rnow_core.models.hf_learner import HFLearner

WEIGHTS = "adapter_model.safetensors"


def test_rolled_back_weights_are_a_version_of_their_own(
    learner: Callable[..., HFLearner], tmp_path: Path
) -> None:
    made, published, saved = learner(), tmp_path / "adapters", tmp_path / "saved"
    saved.mkdir()
    for step in (1, 2, 3):
        made.update(make_batch(seed=step), step)
        made.publish(published)
        if step == 1:
            made.save(saved)
    made.load(saved, 3)
    version = made.publish(published)
    assert version.name == "student-back-000003"
    assert version.path is not None
    assert (version.path / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    made.update(make_batch(seed=4), 4)
    made.publish(published)
    names = {path.name for path in published.iterdir()}
    assert names == {"student-000003", "student-back-000003", "student-000004"}
    again = tmp_path / "again"
    again.mkdir()
    made.save(again)
    made.load(again)
    assert made.publish(None).name == "student-000004"
