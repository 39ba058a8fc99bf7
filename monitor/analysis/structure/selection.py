"""The k largest of many values: exact, in two passes over them, without sorting or copying them.

Values are float32 without a sign, whose bits are in the order of the values: infinity above all numbers, NaN above it.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from monitor.analysis.structure.parts import parts

_HIGH, _LOW = 1 << 15, 1 << 16


def share_count(share: float, weights: int) -> int:
    """Return how many weights a share of them is: rounded up, and at least one of any, as in arXiv 2606.13657.

    >>> share_count(0.1, 25), share_count(0.001, 25), share_count(0.07, 100), share_count(0.1, 0)
    (3, 1, 7, 0)
    """
    # As it is written: 0.07 in binary is more, and 7 of 100 would become 8.
    return min(weights, math.ceil(Fraction(repr(share)) * weights))


def kth_largest(values: torch.Tensor, k: int) -> float:
    """Return the k-th largest of n values, 1 ≤ k ≤ n."""
    return float(torch.tensor(_kth_largest_bits(_bits(values), k), dtype=torch.int32).view(torch.float32))


def energy_of_largest(values: torch.Tensor, count: int) -> float:
    """Return Σ v² over the `count` largest |v| of finite float32 values, in float64. Equal ones need no choice."""
    if not count:
        return 0.0
    magnitudes = values.abs()
    limit = kth_largest(magnitudes, count)
    energy, above = 0.0, 0
    for part in parts(magnitudes):
        larger = part[part > limit].double()
        energy, above = energy + float(larger.square().sum()), above + larger.numel()
    return energy + (count - above) * limit**2


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1).view(torch.int32)


def _kth_largest_bits(bits: torch.Tensor, k: int) -> int:
    """Count the upper half of the bits, and the lower one where the k-th is."""
    high = torch.zeros(_HIGH, dtype=torch.int64, device=bits.device)
    for part in parts(bits):
        high += torch.bincount(part >> 16, minlength=_HIGH)
    upper, k = _from_above(high, k)
    low = torch.zeros(_LOW, dtype=torch.int64, device=bits.device)
    for part in parts(bits):
        low += torch.bincount(part[(part >> 16) == upper] & 0xFFFF, minlength=_LOW)
    lower, _ = _from_above(low, k)
    return upper << 16 | lower


def _from_above(counts: torch.Tensor, k: int) -> tuple[int, int]:
    """Return the bin that the k-th largest is in, and which one of that bin, from above, it is."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, k))
    found = counts.numel() - 1 - place
    return found, k - int(above[place]) + int(counts[found])
