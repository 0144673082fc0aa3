"""Held-out accuracy of an adapter at temperature 1, with transformers and peft alone: nothing of rnow is imported.

Usage: python check_adapter.py MODEL_FOLDER ADAPTER_FOLDER VAL_JSONL      prints {"accuracy": ..., "replies": ...}
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar


def main() -> None:
    """Sample one reply for each row and compare it with the row's answer."""
    model_folder, adapter_folder, data_file = sys.argv[1:4]
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_folder, padding_side="left")
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    model = PeftModel.from_pretrained(base, adapter_folder).eval()
    rows = [json.loads(line) for line in Path(data_file).read_text().splitlines()]
    inputs = tokenizer.apply_chat_template(
        [row["messages"] for row in rows],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    torch.manual_seed(0)
    plain = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=16,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    output = model.generate(**inputs, generation_config=plain)
    replies = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [reply == row["metadata"]["answer"] for reply, row in zip(replies, rows, strict=True)]
    print(json.dumps({"accuracy": sum(right) / len(right), "replies": len(right)}))


if __name__ == "__main__":
    main()
