"""Sampler, Teacher, Learner: whatever holds weights."""

import logging

# where it is installed, peft imports bitsandbytes, which then tells the user about a kernel that is not used here
logging.getLogger("bitsandbytes.backends.cpu.ops").disabled = True
