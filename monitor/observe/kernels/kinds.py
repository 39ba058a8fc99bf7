"""How weights are kept, as numbers that loops over bit patterns can compare."""

from __future__ import annotations

BFLOAT16, FLOAT16, FLOAT32, LOW_BYTE = range(4)
