"""One side of `sft_vs_trl.py` in a process of its own: train on the same conversations, a step a command.

    python benchmarks/sft_side.py (rnow | trl-packed | trl-padded) WORK.json

Reads a line for each step from stdin and answers with one JSON line: wall and processor seconds, the loss before the
step, and the peak of the resident size above what it was before the first step. Only the standard library at the top:
the other side runs in an environment that has no rnow.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

Work = dict[str, Any]


def resident_mib(field: str) -> float:
    """`VmRSS` or `VmHWM` of this process, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split(f"{field}:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Line:
    """The conversation with the parent; whatever else is printed goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._before = 0.0
        self._begin = (0.0, 0.0)

    def wait(self) -> None:
        """Return when the parent asks for the next step; end the process when it asks for no more."""
        if not sys.stdin.readline():
            os._exit(0)
        self._begin = (time.perf_counter(), time.process_time())

    def ready(self, **facts: object) -> None:
        """Say that training can begin, and measure memory from here."""
        clear = Path("/proc/self/clear_refs")
        if clear.exists():
            clear.write_text("5")
        self._before = resident_mib("VmRSS")
        print(json.dumps({"ready": True, **facts}), file=self._out)
        self.wait()

    def done(self, loss: float) -> None:
        """Report the step that `wait` began."""
        ends = (time.perf_counter(), time.process_time())
        wall, cpu = (end - begin for end, begin in zip(ends, self._begin, strict=True))
        peak = resident_mib("VmHWM") - self._before
        print(json.dumps({"wall": wall, "cpu": cpu, "loss": loss, "peak_mib": peak}), file=self._out)


def rnow_side(work: Work, line: Line) -> None:
    """The learner as `rnow run` uses it for `sft`."""
    import torch

    from rnow_core.algo.head import token_logprobs
    from rnow_core.algo.supervised import CrossEntropy
    from rnow_core.models.causal_lm import load_student
    from rnow_core.models.device import DeviceThread
    from rnow_core.models.hf_learner import HFLearner
    from rnow_core.models.optimizer import OptimizerSettings
    from rnow_core.types import Batch

    rank = work["rank"]
    device = torch.device("cpu")
    lm = load_student(work["model"], rank=rank, alpha=2.0 * rank, dtype="float32", device=device)
    learner = HFLearner(
        lm,
        DeviceThread(threads=work["threads"]),
        objective=CrossEntropy(),
        token_logprobs=token_logprobs,
        settings=OptimizerSettings(learning_rate=work["learning_rate"], total_steps=work["steps"]),
        micro_batch_tokens=work["micro_batch_tokens"],
    )
    rows = [row["input_ids"] for row in work["rows"]]
    line.ready(torch=torch.__version__, transformers=import_module("transformers").__version__)
    for step in range(1, work["steps"] + 1):
        ids = [token for row in rows for token in row]
        mask = [label >= 0 for row in work["rows"] for label in row["labels"]]
        nothing = [0.0] * len(ids)
        batch = Batch(ids, [len(row) for row in rows], mask, nothing, [], nothing)
        line.done(learner.update(batch, step).loss)
        line.wait()


def trl_side(work: Work, line: Line, packing: bool) -> None:
    """TRL's SFTTrainer; an epoch is a step, so that every step sees the same conversations."""
    torch, trl = import_module("torch"), import_module("trl")
    transformers, datasets = import_module("transformers"), import_module("datasets")
    torch.set_num_threads(work["threads"])

    base: Any = transformers.TrainerCallback

    class Gate(base):  # type: ignore[misc]
        def on_train_begin(self, *_: object, **__: object) -> None:
            versions = {name: import_module(name).__version__ for name in ("torch", "transformers", "trl")}
            line.ready(**versions)

        def on_log(
            self, _args: object, _state: object, _control: object, logs: Any = None, **_: object
        ) -> None:
            if "loss" in logs:
                line.done(float(logs["loss"]))
                line.wait()

    rows = datasets.Dataset.from_list(work["rows"])
    options: Work = {
        "packing": True,
        "max_length": work["micro_batch_tokens"],
        "per_device_train_batch_size": 1,
    }
    if not packing:
        size = work["trl_batch"]
        options = {"max_length": None, "per_device_train_batch_size": size}
        options |= {"train_sampling_strategy": "group_by_length"}
    count = len(rows)
    if packing:
        utils = import_module("trl.data_utils")
        count = len(utils.pack_dataset(rows, work["micro_batch_tokens"], "bfd"))
    else:
        count = -(-count // work["trl_batch"])
    config = trl.SFTConfig(
        output_dir=work["output"],
        gradient_accumulation_steps=count,
        max_steps=work["steps"] + 1,
        learning_rate=work["learning_rate"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    rank = work["rank"]
    peft = import_module("peft")
    lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear") if rank else None
    trl.SFTTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32),
        args=config,
        train_dataset=rows,
        processing_class=transformers.AutoTokenizer.from_pretrained(work["model"]),
        peft_config=lora,
        callbacks=[Gate()],
    ).train()


def main() -> None:
    side, work = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    line = Line()
    if side == "rnow":
        rnow_side(work, line)
    else:
        trl_side(work, line, packing=side == "trl-packed")


if __name__ == "__main__":
    main()
