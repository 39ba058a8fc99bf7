from __future__ import annotations

import gc
import os
from importlib.util import find_spec

# Before transformers is imported: no hub, no telemetry, and TRL's experimental trainers without their banner.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    TRL_EXPERIMENTAL_SILENCE="1",
    CI="1",
)
# Before the Triton kernel is imported, by whichever test or doctest is first: without a GPU it is interpreted. Without
# torch, only the service's tests can run; see tests/floors.
if find_spec("torch"):
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_finish() -> None:
    """Leave what is imported out of every later search for garbage, which trainers and processes that end make."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let libraries find nothing left at the end, which they would say."""
    gc.unfreeze()
