import json

from rnow_core.track.memory import peak_memory
from rnow_core.track.run_folder import RunFolder
from rnow_core.track.summary import write_summary


def test_peak_memory_is_in_bytes_and_follows_allocations(python):
    code = """
    from rnow_core.track.memory import peak_memory
    before = peak_memory()["memory/peak"]
    block = bytearray(200_000_000)
    block[::1000] = b"x" * len(block[::1000])
    print(before, peak_memory()["memory/peak"])
    """
    out, _ = python(code).communicate()
    before, after = map(float, out.split())
    assert 5e6 < before < 2e8
    assert 1.5e8 < after - before < 4e8


def test_the_gpu_is_named_only_where_torch_used_one():
    import torch

    assert ("memory/peak_gpu" in peak_memory()) == (torch.cuda.is_available() and torch.cuda.is_initialized())


def test_the_summary_names_the_run(tmp_path):
    run = RunFolder.create(tmp_path, "mine")
    write_summary(run, {"teacher_kl_after": float("nan"), "student_after": 0.75})
    assert json.loads(run.summary_file.read_text()) == {
        "schema": 1,
        "run": "mine",
        "teacher_kl_after": None,
        "student_after": 0.75,
    }


def test_only_the_metrics_need_numpy_and_nothing_needs_torch(python):
    code = """
    import sys
    from rnow_core.track import checkpoints, clock, events, memory, metrics, run_folder
    from rnow_core.track import sinks, summary, traces, wandb_sink
    assert "numpy" not in sys.modules
    from rnow_core.track import aggregate
    assert not {"torch", "wandb"} & set(sys.modules)
    """
    process = python(code)
    _, err = process.communicate()
    assert process.returncode == 0, err
