"""Imported last by what forks processes for tests: what each of them would do anew is done once, before.

The loops that measure on the CPU are loaded, which takes three tenths of a second, and DeepSpeed, which accelerate
imports wherever it is installed. And no process looks for garbage in what all have imported, which takes as long each
time: a training does when it begins, and when it ends. None of it may start a thread: it would not be there.
"""

from __future__ import annotations

import gc
import os
import threading
from contextlib import suppress

import torch

from monitor.observe.kernels.cpu import compile_loops
from tests.compiling import compile_one_at_a_time

os.environ["DS_ACCELERATOR"] = "cpu"
with suppress(ImportError):
    import deepspeed  # noqa: F401
compile_one_at_a_time()
with suppress(ImportError):
    from monitor.observe.kernels import numba_loops

    compile_loops(numba_loops, (torch.float32.itemsize,) * 3)

gc.collect()
gc.freeze()
assert threading.active_count() == 1
