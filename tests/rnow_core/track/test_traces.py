import json
import math
from dataclasses import replace

import pytest

from rnow_core.track.traces import (
    RowColumns,
    cut_traces,
    keep,
    spread,
    step_traces,
    trace_record,
    write_traces,
)
from rnow_core.track.turns import turns_of

PER_TOKEN = ("pieces", "mask", "turns", "sampler", "trainer", "teacher", "kl", "advantage", "entropy")


def pieces(ids):
    return [f"<{number}>" for number in ids]


def records(step, kept=None):
    scored, batch, update = step
    return list(step_traces(3, scored, batch, update, range(len(scored)) if kept is None else kept, pieces))


def test_the_kept_are_the_same_for_the_same_seed_and_step():
    assert keep(1000, 64, seed=1, step=5) == keep(1000, 64, seed=1, step=5)
    assert keep(1000, 64, seed=1, step=5) != keep(1000, 64, seed=1, step=6)
    assert keep(1000, 64, seed=1, step=5) != keep(1000, 64, seed=2, step=5)


def test_the_kept_are_distinct_ascending_and_at_most_k():
    kept = keep(200, 64, seed=0, step=1)
    assert kept == sorted(set(kept))
    assert len(kept) == 64
    assert set(kept) <= set(range(200))
    assert keep(5, 64, seed=0, step=1) == [0, 1, 2, 3, 4]
    assert keep(5, 0, seed=0, step=1) == []


def test_every_index_is_kept_about_equally_often():
    counts = [0] * 20
    for step in range(2000):
        for index in keep(20, 5, seed=0, step=step):
            counts[index] += 1
    assert all(400 < count < 600 for count in counts)


@pytest.mark.parametrize("turns", [1, 3])
def test_every_list_has_one_entry_for_each_response_id(make_step, turns):
    step = make_step(turns=turns)
    for record, item in zip(records(step), step[0], strict=True):
        trajectory = item.rollout.trajectory
        assert tuple(record["prompt_ids"] + record["ids"]) == trajectory.ids_T
        assert {len(record[name]) for name in PER_TOKEN} == {len(record["ids"])}
        assert record["pieces"] == pieces(record["ids"])
        assert record["mask"] == [int(flag) for flag in trajectory.mask_T[trajectory.prompt_length :]]
        assert max(record["turns"]) == turns


def test_the_values_of_the_update_reach_their_own_tokens(make_step):
    step = make_step(rollouts=6, untrained_rows=(2,))
    remaining = {name: iter(values) for name, values in step[2].columns.items()}
    for row, record in enumerate(records(step)):
        for flag, old, advantage, entropy in zip(
            record["mask"], record["trainer"], record["advantage"], record["entropy"], strict=True
        ):
            if flag and row != 2:
                assert old == pytest.approx(next(remaining["old"]), abs=1e-6)
                assert advantage == pytest.approx(next(remaining["advantage"]), abs=1e-6)
                assert entropy == pytest.approx(next(remaining["entropy"]), abs=1e-6)
            else:
                assert old is advantage is entropy is None


def test_kl_is_trainer_minus_teacher_with_sum_and_mean(make_step):
    for record in records(make_step(turns=2)):
        pairs = zip(record["trainer"], record["teacher"], strict=True)
        kl = [None if old is None else old - teacher for old, teacher in pairs]
        known = [value for value in kl if value is not None]
        assert record["kl"] == pytest.approx(kl, abs=2e-6)
        assert record["kl_sum"] == pytest.approx(sum(known), abs=1e-4)
        assert record["kl_mean"] == pytest.approx(sum(known) / len(known), abs=1e-5)


def test_a_token_that_the_teacher_did_not_read_has_no_kl(make_step):
    scored, batch, update = make_step(rollouts=1, turns=2)
    values = scored[0].teacher_logprobs_T
    scored = [replace(scored[0], teacher_logprobs_T=(*values[:-2], math.nan, math.nan))]
    whole, cut = records(make_step(rollouts=1, turns=2))[0], records((scored, batch, update))[0]
    assert cut["teacher"] == [*whole["teacher"][:-2], None, None]
    assert cut["kl"] == [*whole["kl"][:-2], None, None]
    known = [value for value in cut["kl"] if value is not None]
    assert cut["kl_sum"] == pytest.approx(sum(known), abs=1e-4)
    first, last = turns_of(cut)
    assert first == turns_of(whole)[0]
    assert all(value > 0 for place in last.largest(9) for value in [last.kl[place]])
    finite = [value for value in last.kl if not math.isnan(value)]
    assert last.mean_kl == (pytest.approx(sum(finite) / len(finite)) if finite else None)


def test_sampler_logprobs_stand_on_sampled_tokens_only(make_step):
    for record, item in zip(records(step := make_step()), step[0], strict=True):
        trajectory = item.rollout.trajectory
        for flag, got, mu in zip(
            record["mask"], record["sampler"], trajectory.mu_T[trajectory.prompt_length :], strict=True
        ):
            assert got == (pytest.approx(mu, abs=1e-6) if flag else None)


def test_the_record_says_where_it_comes_from_and_what_became_of_it(make_step):
    scored, batch, update = make_step(rollouts=4)
    record = records((scored, batch, update), kept=[3])[0]
    assert record["step"] == 3
    assert (record["file"], record["line"], record["row"], record["sample"]) == ("train.jsonl", 2, 1, 1)
    assert record["messages"][-1] == {"role": "assistant", "content": "reply 3"}
    assert record["prompt_text"] == "<user>?"
    assert record["teacher_prompt_text"] == "<system>hint<user>?"
    assert record["teacher_name"] == "big"
    assert record["rewards"] == scored[3].rewards
    assert record["reward"] == scored[3].reward
    assert record["stop_reason"] == scored[3].rollout.stop_reason
    assert record["policy"] == "student-000001"


def test_tool_calls_and_results_are_in_the_conversation_and_counted(make_step):
    scored, batch, update = make_step(rollouts=1, turns=2)
    call = {"id": "call00000", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = (
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00000", "name": "add", "content": "`b` is missing"},
    )
    rollout = replace(scored[0].rollout, messages=messages, tool_calls=1, tool_errors=1)
    record = records(([replace(scored[0], rollout=rollout)], batch, update))[0]
    assert record["messages"] == list(messages)
    assert (record["tool_calls"], record["tool_errors"]) == (1, 1)


def test_without_a_teacher_its_columns_are_null(make_step):
    record = records(make_step(teacher=None), kept=[0])[0]
    assert [record[name] for name in ("teacher", "kl", "kl_sum", "kl_mean", "teacher_name")] == [None] * 5


def test_a_rollout_without_trained_tokens_has_no_kl(make_step):
    record = records(make_step(untrained_rows=(0,)), kept=[0])[0]
    assert record["kl_sum"] is None
    assert set(record["kl"]) == {None}


def test_lengths_that_do_not_fit_are_refused(make_step):
    scored, batch, update = make_step(rollouts=2)
    columns = RowColumns(batch, update).of(0)
    with pytest.raises(ValueError, match="pieces"):
        trace_record(scored[0], columns, lambda ids: ["x"])
    with pytest.raises(ValueError, match="'old'"):
        trace_record(scored[0], {**columns, "old": columns["old"][:-1]}, pieces)
    with pytest.raises(ValueError, match="2 values for 1"):
        spread([0.1, 0.2], [True, False])
    short = replace(scored[0], teacher_logprobs_T=scored[0].teacher_logprobs_T[:-1])
    with pytest.raises(ValueError, match="zip"):
        trace_record(short, columns, pieces)


def test_a_file_holds_one_json_object_a_line(make_step, tmp_path):
    path = tmp_path / "step_000003.jsonl"
    kept = keep(8, 3, seed=0, step=3)
    write_traces(path, iter(records(make_step(), kept)))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["row"], row["sample"]) for row in rows] == [(index // 2, index % 2) for index in kept]


def test_cutting_back_removes_later_steps_only(tmp_path):
    for step in (1, 2, 3, 10):
        write_traces(tmp_path / f"step_{step:06d}.jsonl", [])
    (tmp_path / "step_notes.jsonl").write_text("")
    cut_traces(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_000001.jsonl",
        "step_000002.jsonl",
        "step_notes.jsonl",
    ]
