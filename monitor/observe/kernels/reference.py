"""The specification, in plain torch, for any device. Readable rather than fast: it makes full-size intermediates.

Where the weights are on a GPU, nothing here lets the host wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monitor.observe.bits import pack, unpack
from monitor.observe.criterion import visible
from monitor.observe.kernels import low_byte
from monitor.observe.kernels.contract import Counts, Rules, Segment


def exceeds(difference: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Return where |difference| > tolerance. NaN exceeds every tolerance."""
    # A number, which unlike a tensor need not be copied to the device; in float32, as the difference is.
    limit = torch.tensor(tolerance, dtype=torch.float32, device="cpu").item()
    return ~(difference.abs() <= limit)


def measure(segments: Sequence[Segment], rules: Rules) -> Counts:
    """Measure each segment; they are on one device."""
    counts = Counts.zeros(segments, rules, segments[0].current.device if segments else torch.device("cpu"))
    for row, segment in enumerate(segments):
        integers, floats = _measure_segment(segment, rules)
        counts.integers[row, : len(integers)] = integers
        counts.floats[row] = floats
    return counts


def _measure_segment(segment: Segment, rules: Rules) -> tuple[torch.Tensor, torch.Tensor]:
    stored = segment.current.detach().reshape(-1)
    current = visible(stored, rules.visible_dtype)
    kept_base = low_byte.nearest(segment.base, current) if segment.base.dtype == torch.uint8 else segment.base
    base = visible(kept_base, rules.visible_dtype)

    differs = current != base
    difference = torch.where(differs, current.float() - base.float(), 0.0)
    tolerance = rules.criterion.tolerance
    changed = differs if tolerance is None else differs & exceeds(difference, tolerance)
    was_changed = unpack(segment.mask, stored.numel())
    segment.mask.copy_(pack(changed))

    step_changed = touched = torch.zeros_like(changed)
    if segment.previous is not None and segment.touched is not None:
        # Always by bits: then a slow drift below the tolerance is still touched.
        step_changed = compare_previous(current, segment.previous) | (changed ^ was_changed)
        touched = unpack(segment.touched, stored.numel()) | step_changed
        segment.touched.copy_(pack(touched))

    # In the order of contract.py's columns.
    integers = [
        changed,
        changed & ~was_changed,
        was_changed & ~changed,
        step_changed,
        touched,
        (stored != kept_base.to(stored.dtype)) & ~differs,
        ~torch.isfinite(current),
        *(differs & exceeds(difference, tolerance) for tolerance in rules.tolerances),
        *(changed & unpack(reference, stored.numel()) for reference in segment.references),
    ]
    finite = torch.where(torch.isfinite(difference), difference.double(), 0.0)
    maximum = finite.abs().max() if finite.numel() else finite.sum()
    return torch.stack([column.sum() for column in integers]), torch.stack([finite.square().sum(), maximum])


def compare_previous(current: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """Return where visible weights differ from the previous ones, and keep the current ones in `previous`.

    Of low bytes, a difference that is a multiple of 256 representable steps is not seen. NaN always differs.
    """
    if previous.dtype == torch.uint8:
        low = low_byte.low_byte(current)
        differs = (low != previous) | current.isnan()
        previous.copy_(low)
    else:
        differs = current != previous
        previous.copy_(current)
    return differs
