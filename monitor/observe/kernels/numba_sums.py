"""The sums of a fingerprint, compiled by numba: what base/fingerprint.py's `weight_sums` computes, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from monitor.observe.kernels.numba_loops import _compiled

# Multipliers of splitmix64, as signed 64-bit numbers.
_FIRST, _SECOND = np.int64(-0x61C8864680B583EB), np.int64(-0x4B47D0C5BC6DBC27)
i64 = np.int64


@_compiled
def add_sums(bits: Any, first: Any, sums: Any) -> None:
    """Add Σ bᵢ and Σ bᵢ·rᵢ modulo 2⁶⁴ of visible weights, as signed integers, whose first has this index."""
    plain, mixed = i64(0), i64(0)
    for i in range(bits.size):
        value = i64(bits[i])
        index = i64(first + i64(i + 1)) * _FIRST
        index = i64(index ^ (index >> i64(31))) * _SECOND
        plain += value
        mixed += value * i64(index ^ (index >> i64(29)))
    sums[0] += plain
    sums[1] += mixed
