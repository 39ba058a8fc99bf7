"""What a pass over the weights computes, what a kernel is given for it, and what it gives back.

For each weight θ with base θ₀, where b(·) rounds to the visible dtype, M and U are its bits in the update mask and the
touched mask, p is its previous visible weight (or the low byte of that), and τ is the criterion's tolerance:

    differs   b(θ) ≠ b(θ₀)              by value: −0 = +0, and NaN differs from everything
    Δ         b(θ) − b(θ₀) if differs   in float32; else 0, so of equal infinities too
    M′        differs ∧ |Δ| > τ         differs, for the criterion "bits"; NaN exceeds every tolerance
    I         b(θ) ≠ p ∨ M′ ≠ M         the step mask, by bits whatever the criterion is
    U′        U ∨ I
    hidden    θ ≠ θ₀ ∧ ¬differs         θ₀ in the dtype of θ

It counts per segment, sums Δ² and takes the maximum of |Δ| where Δ is finite, and writes M′, U′ and p′ = b(θ) in place:

    CHANGED        Σ M′                 STEP_CHANGED   Σ I
    NEWLY_CHANGED  Σ M′ ∧ ¬M            TOUCHED        Σ U′
    REVERTED       Σ M ∧ ¬M′            HIDDEN         Σ hidden
                                        NON_FINITE     Σ b(θ) is infinite or NaN
    for each tolerance t:  Σ differs ∧ |Δ| > t
    for each reference R:  Σ M′ ∧ R

M′ ≠ M belongs to I because a weight whose low byte is the same may have moved, as when it leaves zero: so M ⊆ U holds.

A kernel is bound to segments and rules when it is made, and then compiled; calling it reads each weight once, and
returns the counts. `reference.py` is the specification; the other implementations agree with it bit for bit in masks,
integer counts and max|Δ|. Σ|Δ|² agrees to rounding: float addition depends on its order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from monitor.observe.bits import BITS_PER_WORD, word_count
from monitor.observe.criterion import Criterion

# Columns of Counts.integers; the tolerances and then the reference masks follow.
CHANGED, NEWLY_CHANGED, REVERTED, STEP_CHANGED, TOUCHED, HIDDEN, NON_FINITE = range(7)
FIXED_COLUMNS = 7
# Columns of Counts.floats.
SQUARED_NORM, MAX_ABS = range(2)


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

    The base alone may be elsewhere: in host memory. A kernel looks for all of it where it was when that was bound.

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

    @classmethod
    def zeros(cls, segments: Sequence[Segment], rules: Rules, device: torch.device) -> Counts:
        """Return counts of nothing yet."""
        return cls(
            torch.zeros(len(segments), column_count(segments, rules), dtype=torch.int64, device=device),
            torch.zeros(len(segments), 2, dtype=torch.float64, device=device),
        )

    def put(self, rows: torch.Tensor, counts: Counts) -> None:
        """Write the counts of some of the segments, of which `rows` (int64) are the rows here; all on one device."""
        self.integers[:, : counts.integers.shape[1]].index_copy_(0, rows, counts.integers)
        self.floats.index_copy_(0, rows, counts.floats)

    def add(self, rows: torch.Tensor, counts: Counts) -> None:
        """Add the counts of spans of the segments, of which `rows` (int64) are the rows here; all on one device."""
        self.integers[:, : counts.integers.shape[1]].index_add_(0, rows, counts.integers)
        self.floats[:, SQUARED_NORM].index_add_(0, rows, counts.floats[:, SQUARED_NORM])
        self.floats[:, MAX_ABS].scatter_reduce_(0, rows, counts.floats[:, MAX_ABS], "amax")


# Measures what it was bound to: masks and previous weights of its segments go on from call to call.
Kernel: TypeAlias = Callable[[], Counts]
# Makes a kernel; what must be compiled for it is compiled before it returns.
Bind: TypeAlias = Callable[[Sequence[Segment], Rules], Kernel]


def first_reference(rules: Rules) -> int:
    """Return the column of Counts.integers that the first reference mask has."""
    return FIXED_COLUMNS + len(rules.tolerances)


def column_count(segments: Sequence[Segment], rules: Rules) -> int:
    """Return how many columns Counts.integers has: with as many references as any segment has."""
    return first_reference(rules) + max((len(segment.references) for segment in segments), default=0)


def floats_of_all(floats: torch.Tensor) -> torch.Tensor:
    """Return Counts.floats of whole segments, out of those of their shards: shape (shards, segments, 2)."""
    return torch.stack([floats[..., SQUARED_NORM].sum(dim=0), floats[..., MAX_ABS].amax(dim=0)], dim=-1)


def cut(segment: Segment, where: slice) -> Segment:
    """Return a span of a contiguous segment that starts at a word; all of it are views."""
    words = slice(where.start // BITS_PER_WORD, where.start // BITS_PER_WORD + word_count(where.stop - where.start))
    return Segment(
        current=segment.current.detach().view(-1)[where],
        base=segment.base[where],
        mask=segment.mask[words],
        previous=None if segment.previous is None else segment.previous[where],
        touched=None if segment.touched is None else segment.touched[words],
        references=tuple(reference[words] for reference in segment.references),
    )


def spans(segment: Segment, weights: int) -> list[Segment]:
    """Cut a segment into spans of so many weights, a multiple of 32. What is not contiguous stays whole."""
    count = segment.current.numel()
    if count <= weights or not segment.current.is_contiguous():
        return [segment]
    return [cut(segment, slice(start, min(start + weights, count))) for start in range(0, count, weights)]
