"""Structural masks by numpy, in float64 and on the whole parameter: sort all weights, and mark the first."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch


def structural_bools(text: str, name: str, weights: torch.Tensor) -> npt.NDArray[np.bool_]:
    """Return which of the visible weights of a parameter a structural mask such as "lowest:0.1" has; flattened."""
    kind, share = text.split(":")
    values = weights.reshape(-1).double().numpy()
    numbers = _splitmix64(f"{kind}:{name}", values.size)
    magnitudes = np.abs(values) if kind == "lowest" else np.zeros(values.size)
    # The last key is the first one to be sorted by.
    order = np.lexsort((numbers, magnitudes, np.isnan(magnitudes)))
    bools = np.zeros(values.size, dtype=np.bool_)
    bools[order[: math.floor(Fraction(share) * values.size)]] = True
    return bools


def _splitmix64(seed: str, count: int) -> npt.NDArray[np.uint64]:
    start = np.frombuffer(hashlib.sha256(seed.encode()).digest()[:8], dtype="<u8")[0]
    with np.errstate(over="ignore"):
        bits = start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return bits ^ bits >> np.uint64(31)
