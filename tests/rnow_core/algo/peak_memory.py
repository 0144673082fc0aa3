"""Prints the growth of this process's peak memory (MiB) over one forward and backward of the head.

usage: peak_memory.py TOKENS VOCABULARY ours|full
"""

import resource
import sys
from pathlib import Path

import torch

from rnow_core.algo.head import token_logprobs


def peak_mib():
    """Highest resident size of this process so far, in MiB.

    On Linux not ru_maxrss: that one starts at the size of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


tokens, vocabulary, which = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
torch.manual_seed(0)
hidden = torch.randn(tokens, 16, requires_grad=True)
weight = torch.randn(vocabulary, 16)
ids = torch.randint(vocabulary, (tokens,))
warm = torch.randn(8, 16, requires_grad=True)
torch.log_softmax(warm @ weight[:64].T, -1).sum().backward()
before = peak_mib()
if which == "ours":
    logp = token_logprobs(hidden, weight, ids, chunk_bytes=4 * 2**20)[0]
else:
    logp = torch.log_softmax(hidden @ weight.T, -1).gather(1, ids[:, None])
logp.sum().backward()
print(peak_mib() - before)
