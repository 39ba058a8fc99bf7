"""The size of an update in representable steps: how many values of the visible dtype lie between base and current."""

from __future__ import annotations

import torch

from monitor.analysis.structure.parts import parts
from monitor.observe.observation import IntArray

BUCKETS = 32
"""Powers of two: bucket b counts moves of 2ᵇ to 2ᵇ⁺¹ − 1 steps. float32 has fewer than 2³² values."""


def representable_steps(base: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
    """Return by how many representable values two tensors differ, int64; of finite weights of one visible dtype.

    −0 and +0 are one value. Across zero, the steps down to zero and up again add up.

    >>> one = torch.tensor([1.0], dtype=torch.bfloat16)
    >>> representable_steps(one, one + 2**-7).item(), representable_steps(one, -one).item()
    (1, 32512)
    """
    return (_order(current) - _order(base)).abs()


def step_histogram(base: torch.Tensor, current: torch.Tensor) -> IntArray:
    """Count the weights that moved by 1, 2–3, 4–7, … steps, in BUCKETS buckets. What is not finite is left out."""
    counts = torch.zeros(BUCKETS, dtype=torch.int64, device=base.device)
    # Bucket of s: how many powers of two from 2 on are ≤ s.
    limits = 2 ** torch.arange(1, BUCKETS, device=base.device)
    for before, after in zip(parts(base), parts(current), strict=True):
        moved = (before != after) & torch.isfinite(before) & torch.isfinite(after)
        steps = representable_steps(before[moved], after[moved])
        counts += torch.bincount(torch.bucketize(steps, limits, right=True), minlength=BUCKETS)
    result: IntArray = counts.cpu().numpy()
    return result


def _order(values: torch.Tensor) -> torch.Tensor:
    """Return integers in the order of the values, with no gaps: sign and magnitude of the bits."""
    kind, magnitude = (torch.int16, 0x7FFF) if values.element_size() == 2 else (torch.int32, 0x7FFFFFFF)
    bits = values.contiguous().view(kind).long()
    return torch.where(bits < 0, -(bits & magnitude), bits)
