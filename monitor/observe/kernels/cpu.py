"""For weights in host memory, without a compiler: chunk by chunk, so that intermediates stay in cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from monitor.observe.criterion import visible
from monitor.observe.kernels import low_byte
from monitor.observe.kernels.contract import FIXED_COLUMNS, Counts, Rules, Segment

# Weights at a time; a multiple of 32, so that every chunk starts at a word. Torch splits operations on 2¹⁵ elements or
# more among its threads (at::internal::GRAIN_SIZE), and waiting for these at every small operation costs more than they
# give: up to a hundred times more on a busy machine.
CHUNK = 1 << 14

Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

_INFINITY = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00, torch.float32: 0x7F800000}


def measure(segments: Sequence[Segment], rules: Rules) -> Counts:
    """Measure each segment; see contract.py for shapes."""
    columns = FIXED_COLUMNS + len(rules.tolerances) + max((len(s.references) for s in segments), default=0)
    integers = np.zeros((len(segments), columns), dtype=np.int64)
    floats = np.zeros((len(segments), 2), dtype=np.float64)
    for row, segment in enumerate(segments):
        stored = segment.current.detach().reshape(-1)
        for start in range(0, stored.numel(), CHUNK):
            chunk = _Chunk(segment, stored, slice(start, min(start + CHUNK, stored.numel())))
            # inf − inf is NaN, and is left out of the sums.
            with np.errstate(invalid="ignore", over="ignore"):
                counts, squared_norm, max_abs = chunk.measure(rules)
            integers[row] += counts
            floats[row, 0] += squared_norm
            floats[row, 1] = max(floats[row, 1], max_abs)
    return Counts(torch.from_numpy(integers), torch.from_numpy(floats))


class _Chunk:
    """A slice of a segment. Its packed bytes are views into the segment's words."""

    def __init__(self, segment: Segment, stored: torch.Tensor, where: slice) -> None:
        self.segment = segment
        self.stored = stored[where]
        self.base = segment.base[where]
        self.where = where

    def measure(self, rules: Rules) -> tuple[list[int], float, float]:
        current = visible(self.stored, rules.visible_dtype)
        if self.base.dtype == torch.uint8:
            self.base = low_byte.nearest(self.base, current)
        base = visible(self.base, rules.visible_dtype)
        now, then = _Bits.of(current), _Bits.of(base)
        differs = now.differ(then)
        where = np.flatnonzero(differs)
        difference = now.floats(where) - then.floats(where)
        size = np.abs(difference)
        changed = differs
        if rules.criterion.tolerance is not None:
            changed = np.zeros_like(differs)
            changed[where] = _exceeds(size, rules.criterion.tolerance)

        new, old = _pack(changed), self._bytes(self.segment.mask)
        newly_changed, reverted = _popcount(new & ~old), _popcount(old & ~new)
        step_changed, touched = self._step(current, now, new ^ old)
        old[:] = new
        counts = [
            _popcount(new),
            newly_changed,
            reverted,
            step_changed,
            touched,
            self._hidden(differs, rules),
            int(np.count_nonzero(now.size >= now.infinity)),
            *(int(np.count_nonzero(_exceeds(size, tolerance))) for tolerance in rules.tolerances),
            *(_popcount(new & self._bytes(reference)) for reference in self.segment.references),
        ]
        finite = size[np.isfinite(size)].astype(np.float64)
        return counts, float(finite @ finite), float(finite.max(initial=0.0))

    def _step(self, current: torch.Tensor, now: _Bits, flipped: Bytes) -> tuple[int, int]:
        if self.segment.previous is None or self.segment.touched is None:
            return 0, 0
        previous = self.segment.previous[self.where]
        if previous.dtype == torch.uint8:
            low, before = low_byte.low_bytes(current, current.dtype).numpy(), previous.numpy()
            differs = (low != before) | (now.size > now.infinity)
            before[:] = low
        else:
            differs = now.differ(_Bits.of(previous))
            previous.copy_(current)
        step = _pack(differs) | flipped
        touched = self._bytes(self.segment.touched)
        touched |= step
        return _popcount(step), _popcount(touched)

    def _hidden(self, differs: Bools, rules: Rules) -> int:
        if self.stored.dtype == rules.visible_dtype:
            return 0
        if self.stored.dtype not in _INFINITY:
            moved: Bools = (self.stored != self.base.to(self.stored.dtype)).numpy()
        else:
            moved = _Bits.of(self.stored).differ(_Bits.of(self.base.to(self.stored.dtype)))
        return int(np.count_nonzero(moved & ~differs))

    def _bytes(self, words: torch.Tensor) -> Bytes:
        first = self.where.start // 8
        view: Bytes = words.numpy().view(np.uint8)
        return view[first : first + -(-(self.where.stop - self.where.start) // 8)]


@dataclass(frozen=True)
class _Bits:
    """Weights as bit patterns: integers are compared many times as fast as torch compares 16-bit floats."""

    weights: torch.Tensor
    bits: npt.NDArray[np.signedinteger[Any]]
    # Bits without sign.
    size: npt.NDArray[np.signedinteger[Any]]
    infinity: int

    @classmethod
    def of(cls, weights: torch.Tensor) -> _Bits:
        bits = weights.view(torch.int16 if weights.element_size() == 2 else torch.int32).numpy()
        return cls(weights, bits, bits & np.iinfo(bits.dtype).max, _INFINITY[weights.dtype])

    def differ(self, other: _Bits) -> Bools:
        """Compare by value: −0 = +0, and NaN differs from everything."""
        nonzero = (self.size | other.size) != 0
        differs: Bools = ((self.bits != other.bits) & nonzero) | (self.size > self.infinity)
        return differs

    def floats(self, where: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Return some of the weights in float32, exactly."""
        values: npt.NDArray[np.float32] = torch.from_numpy(self.bits[where]).view(self.weights.dtype).float().numpy()
        return values


def _exceeds(size: npt.NDArray[np.float32], tolerance: float) -> Bools:
    # NaN exceeds every tolerance.
    above: Bools = ~(size <= np.float32(tolerance))
    return above


def _pack(bits: Bools) -> Bytes:
    return np.packbits(bits, bitorder="little")


def _popcount(packed: Bytes) -> int:
    # numpy has a popcount only from version 2 on.
    return int.from_bytes(packed.tobytes(), "little").bit_count()
