"""What tests marked `gpu` run on: a GPU; or, to rehearse them without one, a CPU and Triton's interpreter.

A rehearsal runs the same test bodies with small shapes. It finds faults of the tests, and says nothing of a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
import torch

REHEARSAL = os.environ.get("REHEARSE_GPU_TESTS") == "1"
DEVICE = "cpu" if REHEARSAL else "cuda"
needs_gpu = pytest.mark.skipif(not REHEARSAL and not torch.cuda.is_available(), reason="no CUDA device")

T = TypeVar("T")


def full_or_small(full: T, small: T) -> T:
    """Return what a GPU is given, or what takes the interpreter a second."""
    return small if REHEARSAL else full


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Fail where the host waits for the GPU."""
    if REHEARSAL:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def skip_below(gibibytes: int) -> None:
    """Skip a test that takes more GPU memory than is free."""
    if not REHEARSAL and torch.cuda.mem_get_info()[0] < gibibytes * 2**30:
        pytest.skip(f"needs {gibibytes} GiB of GPU memory")
