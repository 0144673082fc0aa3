"""`rnow eval` on a tiny run: the table against its replies, against the run's own figures, and after a kill."""

import json
import os
import signal
import statistics
import traceback
from itertools import combinations
from pathlib import Path

import pytest
from tiny import make_project, row, write_config, write_rows

from rnow_core.errors import Interrupted
from rnow_core.jobs.eval_subject import EvalRequest
from rnow_core.jobs.evaluate import evaluate
from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import MetricsFile, read_metrics

LIKED = '''from rnow import reward, get_response


@reward
def liked(args, messages):
    """The share of characters that the teacher writes more often than the student."""
    reply = get_response(messages)
    return sum(character in "r.8heu5=31pjywlcz" for character in reply) / max(1, len(reply))
'''
SETTINGS = {
    "teacher": {"eval_baseline": True},
    "trainer": {"max_steps": 2, "eval_step": 1, "save_step": 1, "learning_rate": 0.05},
    "eval": {"group_size": 4, "pass_at": [1, 2], "pass_threshold": 0.3},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A run of two steps, evaluated before, between and after."""
    folder = make_project(tmp_path_factory.mktemp("project"), **SETTINGS)
    (folder / "rewards.py").write_text(LIKED)
    write_rows(folder / "train.jsonl", [row(f"{i}+{i}=?", rewards=["liked"]) for i in range(8)])
    write_rows(
        folder / "val.jsonl",
        [row(f"{i}+1=?", rewards=["liked"], env="odd" if i % 2 else None) for i in range(100, 106)],
    )
    started(folder, "trained")
    return folder


def started(folder, name, resume=False):
    events = []
    train(folder, overrides=[], name=name, resume=resume, emit=events.append, stop=StopSignal())
    return events


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def rewards(rows, policy, env=None):
    """The total rewards of each problem, by its number."""
    return {
        item["problem"]: item["rewards"]
        for item in rows
        if item["policy"] == policy and env in (None, item["env"])
    }


def mean(values):
    return statistics.fmean(statistics.fmean(group) for group in values.values())


def passing(values, k):
    """pass@k by looking at every choice of k samples."""
    shares = [
        statistics.fmean(any(reward >= 0.3 for reward in chosen) for chosen in combinations(group, k))
        for group in values.values()
    ]
    return statistics.fmean(shares)


def test_the_table_is_that_of_the_replies_and_of_the_run(rnow, project):
    done = rnow("eval", project, "--json")
    assert done.code == 0, done.err
    table = json.loads(done.out)
    rows = lines(table["problems_file"])
    assert json.loads(Path(table["file"]).read_text()) == table
    assert (table["run"], table["step"], table["samples"]) == ("trained", 2, 4)
    assert len(rows) == 3 * 6
    written = {
        step: {
            name: value
            for item in read_metrics(project / "runs/trained/metrics.jsonl")
            if item["step"] == step
            for name, value in item.items()
        }
        for step in (0, 2)
    }
    for env, part in table["envs"].items():
        own, base, teacher = (rewards(rows, policy, env) for policy in ("student", "base", "teacher"))
        for policy, values in (("student", own), ("base", base), ("teacher", teacher)):
            found = part["policies"][policy]
            assert found["avg"]["mean"] == pytest.approx(mean(values))
            assert {k: item["mean"] for k, item in found["pass"].items()} == pytest.approx(
                {str(k): passing(values, k) for k in (1, 2, 4)}
            )
        assert written[0][f"eval/{env}/avg@4"] == pytest.approx(mean(base))
        assert written[2][f"eval/{env}/avg@4"] == pytest.approx(mean(own))
        assert written[2][f"eval/{env}/pass@2"] == pytest.approx(passing(own, 2))
        assert written[0][f"eval/{env}/baseline_student/avg"] == pytest.approx(mean(base))
        assert written[0][f"eval/{env}/baseline_teacher/avg"] == pytest.approx(mean(teacher))
        gap = mean(teacher) - mean(base)
        assert written[0][f"eval/{env}/baseline_diff"] == pytest.approx(gap)
        closed = 100 * (mean(own) - mean(base)) / gap
        assert written[2][f"eval/{env}/gap_closed"] == pytest.approx(closed)
        assert part["gap_closed"] == pytest.approx(closed)
    differences = [statistics.fmean(own[key]) - statistics.fmean(base[key]) for key in own]
    half = 1.959964 * statistics.stdev(differences) / len(differences) ** 0.5
    found = table["envs"][env]["differences"]["student - base"]
    assert (found["low"], found["high"]) == pytest.approx(
        (statistics.fmean(differences) - half, statistics.fmean(differences) + half), abs=1e-6
    )


def test_people_see_one_table_and_nothing_is_sampled_again(rnow, project):
    before = {path: path.read_bytes() for path in (project / "runs/trained/evals").glob("*.jsonl")}
    done = rnow("eval", project, "--run", "trained")
    assert done.code == 0
    assert "loading the models" not in done.err
    heads = [line.split()[0] for line in done.out.splitlines() if line]
    assert heads[:5] == ["run", "odd", "student", "base", "teacher"]
    assert "all together" in done.out
    assert "avg@4" in done.out.splitlines()[2]
    assert {path: path.read_bytes() for path in (project / "runs/trained/evals").glob("*.jsonl")} == before


def test_base_and_teacher_are_taken_over_for_another_checkpoint(rnow, project):
    done = rnow("eval", project, "--checkpoint", "1")
    assert done.code == 0, done.err
    assert "student: 6 of 6" in done.err
    assert "base: " not in done.err
    assert "teacher: " not in done.err
    first, second = (lines(project / f"runs/trained/evals/step_{step:06d}-val-k4.jsonl") for step in (1, 2))
    assert rewards(first, "teacher") == rewards(second, "teacher")
    assert rewards(first, "student") != rewards(second, "student")


def killed_at(project, moment):
    """Evaluate in a forked process that kills itself in the middle of writing its `moment`-th row."""
    child = os.fork()
    if child == 0:
        real, count = MetricsFile.append, 0

        def append(self, item):
            nonlocal count
            count += 1
            if count == moment:
                os.write(self._descriptor, json.dumps(item).encode()[:40])
                os.kill(os.getpid(), signal.SIGKILL)
            real(self, item)

        MetricsFile.append = append
        try:
            evaluate(EvalRequest(project, name="killed", samples=2), lambda event: None, StopSignal())
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_a_killed_evaluation_goes_on_with_what_is_missing(rnow, project):
    killed_at(project, 9)
    file = project / "runs/trained/evals/killed.jsonl"
    kept = file.read_bytes()
    assert kept.count(b"\n") == 8
    done = rnow("eval", project, "--name", "killed", "-k", "2", "--json")
    assert done.code == 0, done.err
    assert file.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    whole = evaluate(EvalRequest(project, name="whole", samples=2), lambda event: None, StopSignal())

    def by_problem(path):
        return {(item["policy"], item["problem"]): item for item in lines(path)}

    assert len(lines(file)) == 18
    assert by_problem(file) == by_problem(whole["problems_file"])
    assert json.loads(done.out)["overall"] == whole["overall"]


def test_a_stop_keeps_what_is_finished(project):
    stop = StopSignal()

    def emit(event):
        if "student: 2 of 6" in str(event.fields.get("message")):
            stop.request()

    with pytest.raises(Interrupted, match="student"):
        evaluate(EvalRequest(project, name="stopped", samples=1, overrides=["eval.batch_size=1"]), emit, stop)
    rows = lines(project / "runs/trained/evals/stopped.jsonl")
    assert [len(rewards(rows, policy)) for policy in ("base", "student", "teacher")] == [6, 2, 0]


def test_a_file_of_problems_without_a_run_judged_by_a_built_in_verifier(rnow, project):
    problems = Path("problems.jsonl")
    write_rows(problems, [row(f"{i}+1=?", rewards=None, metadata={"answer": str(i)}) for i in range(3)])
    before = {path.name for path in (project / "runs").iterdir()}
    args = ("eval", project, "--base", "--no-teacher", "--file", problems, "--reward", "exact", "-k", "2")
    done = rnow(*args, "--json")
    assert done.code == 0, done.err
    table = json.loads(done.out)
    assert list(table["overall"]["policies"]) == ["base"]
    assert (table["run"], list(table["envs"])) == (None, ["problems"])
    assert {path.name for path in (project / "runs").iterdir()} - before == {"base"}
    assert {
        name for item in lines(table["problems_file"]) for r in item["replies"] for name in r["rewards"]
    } == {"exact"}
    write_rows(problems, [row("9+1=?", rewards=None, metadata={"answer": "10"})])
    again = rnow(*args)
    assert again.code == 4
    assert "another files" in again.err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--run", "nope"], 2, "trained"),
        (["--checkpoint", "9"], 2, "0, 1, 2"),
        (["--base", "--checkpoint", "1"], 2, "--base"),
        (["model.path=x"], 2, "model.path=x"),
        (["--reward", "nobody"], 2, "multiple_choice"),
        (["--reward", "numeric"], 1, "metadata.answer"),
        (["--name", "../x"], 2, "--name"),
        (["--file", "absent.jsonl"], 1, "does not exist"),
        (["rollout.max_tokens=0"], 1, "max_tokens"),
    ],
)
def test_a_mistake_is_told(rnow, project, args, code, said):
    done = rnow("eval", project, *args)
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_run_ends_when_the_gap_is_closed_also_when_it_is_resumed(project):
    """The threshold is what some evaluation of the first run closed: the second run ends at the first that did."""
    settings = {
        **SETTINGS,
        "trainer": {**SETTINGS["trainer"], "max_steps": 6, "num_epochs": 6, "save_step": -1},
    }
    write_config(project, **settings)
    try:
        started(project, "full")
        closed = gaps(project / "runs/full")
        assert len(closed) == 6
        wanted = max(list(closed.values())[1:-1])
        write_config(project, **{**settings, "eval": {**SETTINGS["eval"], "stop_at_gap_closed": wanted}})
        started(project, "early")
    finally:
        write_config(project, **SETTINGS)
    folder = project / "runs/early"
    end = min(step for step, value in closed.items() if value >= wanted)
    assert gaps(folder) == {step: value for step, value in closed.items() if step <= end}
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["step"], status["total_steps"]) == ("finished", end, 6)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == end
    assert summary["checkpoint"].endswith(f"step_{end:06d}")
    assert summary["gap_closed"] is not None
    status["state"] = "running"  # as if it had been killed behind its last checkpoint
    (folder / "status.json").write_text(json.dumps(status))
    events = started(project, "early", resume=True)
    assert "step" not in [event.kind for event in events]
    assert json.loads((folder / "summary.json").read_text())["steps"] == end


def gaps(folder):
    """The smallest gap_closed of every step's evaluation."""
    found = {}
    for item in read_metrics(folder / "metrics.jsonl"):
        values = [value for name, value in item.items() if name.endswith("/gap_closed")]
        if values:
            found[item["step"]] = min(values)
    return found
