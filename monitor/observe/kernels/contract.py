"""What a measuring kernel is given and what it gives back.

A kernel is a function `measure(segments, rules) -> Counts`. It reads each segment's current and base weights once,
updates the masks in place, and counts per segment. `reference.py` is the specification; the other implementations agree
with it bit for bit in masks, integer counts and max|Δ|. Σ|Δ|² agrees to rounding: float addition depends on its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from monitor.observe.criterion import Criterion

BITS_PER_WORD = 32

# Columns of Counts.integers; the tolerances and then the reference masks follow.
CHANGED, NEWLY_CHANGED, REVERTED, STEP_CHANGED, TOUCHED, HIDDEN, NON_FINITE = range(7)
FIXED_COLUMNS = 7
# Columns of Counts.floats.
SQUARED_NORM, MAX_ABS = range(2)


def word_count(weights: int) -> int:
    """Return how many 32-bit words hold one bit per weight."""
    return -(-weights // BITS_PER_WORD)


@dataclass(frozen=True)
class Rules:
    """How to compare: the same for every segment."""

    visible_dtype: torch.dtype
    criterion: Criterion
    # `changed` is counted at each of these too.
    tolerances: tuple[float, ...] = ()


@dataclass(frozen=True)
class Segment:
    """The weights of one parameter that are measured here, n of them, and their masks, all on one device.

    Attributes:
        current: live weights, any shape and strides, n elements, floating point. Only read.
        base: frozen weights in the order of `current.reshape(-1)`, shape (n,). Only read. Either floating point, or
            uint8 where the visible dtype has 16 bits: low bytes of the visible base weights, see low_byte.py.
        mask: update mask of the previous observation, int32 of shape (word_count(n),); bit i of word w belongs to
            weight 32·w + i; unused bits of the last word are 0. Overwritten.
        previous: visible weights of the previous observation, shape (n,): their low bytes as uint8 where the visible
            dtype has 16 bits, else float32. Overwritten. None: step masks are off.
        touched: union of all step masks so far, laid out as `mask`. Updated. None when `previous` is None.
        references: reference masks, laid out as `mask`. Only read.
    """

    current: torch.Tensor
    base: torch.Tensor
    mask: torch.Tensor
    previous: torch.Tensor | None = None
    touched: torch.Tensor | None = None
    references: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Counts:
    """What was counted, one row per segment, on any device.

    Attributes:
        integers: int64 of shape (segments, FIXED_COLUMNS + tolerances + references). STEP_CHANGED and TOUCHED are 0
            where step masks are off.
        floats: float64 of shape (segments, 2): Σ|Δ|² and max|Δ| of the visible weights, over finite Δ.
    """

    integers: torch.Tensor
    floats: torch.Tensor


def floats_of_all(floats: torch.Tensor) -> torch.Tensor:
    """Return Counts.floats of all parts of the segments, out of those of each: shape (parts, segments, 2)."""
    return torch.stack([floats[..., SQUARED_NORM].sum(dim=0), floats[..., MAX_ABS].amax(dim=0)], dim=-1)


class Kernel(Protocol):
    """Every implementation has this signature.

    It may remember what it derived from `segments` until it is given another list, so a list must not be altered.
    """

    def __call__(self, segments: Sequence[Segment], rules: Rules) -> Counts: ...
