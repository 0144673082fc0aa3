"""Memory of an update must not grow with tokens x vocabulary."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

VOCAB = 40_000
FEW, MANY = 60, 260
PROGRAM = f"""
import resource, sys
sys.path.insert(0, sys.argv[2])
from learner_reference import make_batch, student
from rnow_core.algo.head import token_logprobs
from rnow_core.algo.objective import PolicyObjective
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.optimizer import OptimizerSettings
from rnow_core.types import ScoreRequest

device = DeviceThread(threads=1)
learner = HFLearner(student(sys.argv[1]), device, objective=PolicyObjective(), token_logprobs=token_logprobs,
                    settings=OptimizerSettings(learning_rate=1e-3, total_steps=9))
for rows in ({FEW}, {MANY}):
    batch = make_batch(rows=rows, vocab={VOCAB}, longest=50)
    learner.update(batch, 1)
    ids, requests = iter(batch.ids), []
    for length in batch.lengths:
        requests.append(ScoreRequest(tuple(next(ids) for _ in range(length)), 1))
    learner.logprobs(requests)
    print(len(batch.ids), batch.trained_tokens, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
device.close()
"""


def test_peak_memory_does_not_grow_with_tokens_times_vocabulary(model_folder: Callable[..., str]) -> None:
    folder = model_folder(vocab=VOCAB, hidden=16, layers=1)
    command = [sys.executable, "-c", PROGRAM, folder, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    few, many = ([int(word) for word in line.split()] for line in done.stdout.splitlines())
    logits = (many[1] - few[1]) * VOCAB * 4
    growth = many[2] - few[2]
    assert logits > 250 * 2**20
    assert growth < logits / 4, f"peak memory grew by {growth / 2**20:.0f} MiB"
