from __future__ import annotations

import os

import torch

# Before transformers is imported: no hub, no telemetry, and TRL's experimental trainers without their banner.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    TRL_EXPERIMENTAL_SILENCE="1",
    CI="1",
)
# Before the Triton kernel is imported, by whichever test or doctest is first: without a GPU it is interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
