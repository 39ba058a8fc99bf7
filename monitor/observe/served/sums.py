"""The sum of a hash of every weight: of its place in the parameter and its bits, so that shards add up to the whole."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from monitor.errors import UnsupportedModelError
from monitor.observe.chunk_sizes import FINGERPRINT_ON_GPU, elements_on
from monitor.observe.criterion import dtype_name, visible
from monitor.observe.weights.measured import MeasuredWeights

# Sums are numbers modulo this.
MODULUS = 1 << 64

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# As signed 64-bit numbers: the increment of splitmix64 for the place, an odd number of xxHash64 for the bits, and the
# steps by which splitmix64 mixes (Steele, Lea, Flood 2014), (shift, multiplier).
_PLACE, _VALUE = -0x61C8864680B583EB, -0x3D4D51C2D82B14B1
_MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15))
_LAST_SHIFT = 31


def sums(placed: Iterable[MeasuredWeights], visible_dtype: torch.dtype) -> torch.Tensor:
    """Return Σ h(i, b) over the weights of each shard, i the index in the whole parameter, b the bits; int64 (shards,).

    h(i, b) is what splitmix64 makes of i·c + b·d, for two odd numbers c and d; b is taken as a signed number. The sums
    of the shards of a parameter add up to that of the whole modulo 2⁶⁴, on whatever device and in whatever order.

    Args:
        placed: the shards.
        visible_dtype: floating-point weights are rounded to it first.

    Raises:
        UnsupportedModelError: a dtype has elements that are not of 1, 2, 4 or 8 bytes.
    """
    found = [_sum_of(weights, visible_dtype) for weights in placed]
    # All are started before the first is waited for.
    return torch.tensor([int(one) for one in found], dtype=torch.int64, device="cpu")


def unsigned(numbers: torch.Tensor) -> list[int]:
    """Return int64 numbers modulo 2⁶⁴."""
    return [number % MODULUS for number in numbers.tolist()]


def _sum_of(weights: MeasuredWeights, visible_dtype: torch.dtype) -> torch.Tensor:
    live = weights.live().detach().reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=live.device)
    step = elements_on(live.device, FINGERPRINT_ON_GPU)
    for start in range(0, live.numel(), step):
        bits = _bits(live[start : start + step], visible_dtype, weights.name)
        total += _hashes(weights.indices(start, start + bits.numel()).to(bits.device), bits).sum()
    return total


def _bits(weights: torch.Tensor, visible_dtype: torch.dtype, name: str) -> torch.Tensor:
    if weights.is_floating_point():
        weights = visible(weights, visible_dtype)
    if weights.element_size() not in _BITS:
        raise UnsupportedModelError(
            f"{name} is of {dtype_name(weights.dtype)}, which has no fingerprint. Expected elements of 1, 2, 4 or 8 "
            "bytes: leave it out."
        )
    return weights.view(_BITS[weights.element_size()]).to(torch.int64)


def _hashes(index: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Return the hash of each weight, int64; overwrites `index`. Products and sums wrap around."""
    mixed = index.mul_(_PLACE).add_(bits * _VALUE)
    for shift, multiplier in _MIX:
        mixed.bitwise_xor_(_shifted(mixed, shift)).mul_(multiplier)
    return mixed.bitwise_xor_(_shifted(mixed, _LAST_SHIFT))


def _shifted(numbers: torch.Tensor, by: int) -> torch.Tensor:
    """Shift to the right as unsigned numbers: what the arithmetic shift drags in is cleared."""
    return (numbers >> by).bitwise_and_((1 << (64 - by)) - 1)
