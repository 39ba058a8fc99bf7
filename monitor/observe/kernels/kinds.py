"""How weights are kept, as numbers that loops over bit patterns can compare."""

from __future__ import annotations

import torch

BFLOAT16, FLOAT16, FLOAT32, LOW_BYTE = range(4)

KIND_OF = {
    torch.bfloat16: BFLOAT16,
    torch.float16: FLOAT16,
    torch.float32: FLOAT32,
    torch.uint8: LOW_BYTE,
}
