from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# Before the Triton kernel is imported: without a GPU it runs in Triton's interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """The specification's small operations wait for each other's threads longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
