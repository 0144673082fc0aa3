from types import SimpleNamespace

import pytest

from rnow_core.errors import EnvironmentMissing
from rnow_core.track import wandb_sink
from rnow_core.track.run_folder import RunFolder
from rnow_core.track.sinks import GuardedSink
from rnow_core.track.wandb_sink import open_wandb


class Recorder:
    """Stands in for a service: takes rows until told to fail."""

    def __init__(self, fail_at=None):
        self.rows = []
        self.finished = False
        self.fail_at = fail_at

    def log(self, step, metrics):
        if step == self.fail_at:
            raise ConnectionError("no network")
        self.rows.append((step, dict(metrics)))

    def finish(self):
        self.finished = True


def test_a_working_sink_gets_everything():
    recorder, events = Recorder(), []
    sink = GuardedSink("W&B", lambda: recorder, events.append)
    sink.log(1, {"a": 1.0})
    sink.finish()
    assert recorder.rows == [(1, {"a": 1.0})]
    assert recorder.finished
    assert events == []


def test_a_failing_sink_warns_once_and_is_left_alone():
    recorder, events = Recorder(fail_at=2), []
    sink = GuardedSink("W&B", lambda: recorder, events.append)
    for step in range(1, 5):
        sink.log(step, {})
    sink.finish()
    assert [step for step, _ in recorder.rows] == [1]
    assert [event.kind for event in events] == ["warning"]
    assert "no network" in events[0].fields["message"]
    assert not recorder.finished


def test_a_sink_that_cannot_be_opened_warns_once():
    events = []

    def refuse():
        raise TimeoutError("service is down")

    sink = GuardedSink("W&B", refuse, events.append)
    sink.log(1, {})
    sink.finish()
    assert len(events) == 1


def test_what_the_user_must_fix_first_is_an_error():
    def refuse():
        raise EnvironmentMissing("no key")

    with pytest.raises(EnvironmentMissing):
        GuardedSink("W&B", refuse, lambda event: None)


class FakeWandb:
    """The part of the wandb package that is used; the real one talks to a service."""

    errors = SimpleNamespace(UsageError=PermissionError, AuthenticationError=ConnectionRefusedError)
    Settings = SimpleNamespace

    def __init__(self, refusal=None):
        self.refusal = refusal
        self.inits = []
        self.rows = []

    def init(self, **arguments):
        if self.refusal:
            raise self.refusal
        self.inits.append(arguments)
        return SimpleNamespace(
            log=lambda row, step: self.rows.append((step, row)), finish=lambda: self.rows.append("finished")
        )


def opened(run, fake, monkeypatch, name=None):
    events = []
    monkeypatch.setattr(wandb_sink, "import_module", lambda package: fake)
    return open_wandb(run, "project", name, {"seed": 1}, events.append), events


def test_wandb_gets_finite_metrics_and_its_files_stay_in_the_run(tmp_path, monkeypatch):
    run, fake = RunFolder.create(tmp_path, "mine"), FakeWandb()
    sink, events = opened(run, fake, monkeypatch)
    sink.log(1, {"teacher_kl": 0.5, "entropy": float("nan")})
    sink.finish()
    assert fake.rows == [(1, {"teacher_kl": 0.5}), "finished"]
    first = fake.inits[0]
    assert (first["project"], first["name"], first["config"]) == ("project", "mine", {"seed": 1})
    assert first["dir"] == str(run.logs)
    assert events == []


def test_a_resumed_run_goes_on_under_the_same_id_and_another_run_does_not(tmp_path, monkeypatch):
    fake = FakeWandb()
    for name in ("a", "a", "b"):
        run = RunFolder(tmp_path / name)
        opened(run, fake, monkeypatch, name="title")
        run.close()
    ids = [arguments["id"] for arguments in fake.inits]
    assert ids[0] == ids[1] != ids[2]
    assert {arguments["resume"] for arguments in fake.inits} == {"allow"}
    assert fake.inits[0]["name"] == "title"


def test_missing_credentials_are_an_error_with_the_ways_out(tmp_path, monkeypatch):
    fake = FakeWandb(refusal=PermissionError("No API key configured"))
    with pytest.raises(EnvironmentMissing, match="No API key") as caught:
        opened(RunFolder.create(tmp_path), fake, monkeypatch)
    assert "WANDB_API_KEY" in caught.value.hint
    assert "WANDB_MODE=offline" in caught.value.hint


def test_an_unreachable_service_only_warns(tmp_path, monkeypatch):
    sink, events = opened(
        RunFolder.create(tmp_path), FakeWandb(refusal=TimeoutError("no route")), monkeypatch
    )
    sink.log(1, {"a": 1.0})
    assert len(events) == 1
    assert "no route" in events[0].fields["message"]


def test_a_missing_package_is_an_error_with_the_command(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(wandb_sink, "import_module", missing)
    with pytest.raises(EnvironmentMissing, match="wandb") as caught:
        open_wandb(RunFolder.create(tmp_path), "p", None, {}, lambda event: None)
    assert "pip install" in caught.value.hint
