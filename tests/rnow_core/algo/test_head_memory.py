"""Peak memory of the head, measured in processes of their own."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("peak_memory.py")


def peak(tokens, vocabulary, which):
    """Growth of the peak resident size in MiB."""
    command = [sys.executable, str(SCRIPT), str(tokens), str(vocabulary), which]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_peak_does_not_grow_with_tokens_times_vocabulary():
    table = 2048 * 16384 * 4 / 2**20  # 128 MiB
    assert peak(2048, 16384, "full") > table  # the measure sees what it should
    assert peak(2048, 16384, "ours") < table / 4
