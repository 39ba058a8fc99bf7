"""For weights in host memory, without a compiler: chunk by chunk, so that intermediates stay in cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from monitor.observe.criterion import visible
from monitor.observe.kernels import low_byte
from monitor.observe.kernels.contract import FIXED_COLUMNS, Counts, Rules, Segment
from monitor.observe.kernels.reference import compare_previous, exceeds

# Weights at a time; a multiple of 32, so that every chunk starts at a word. Torch splits operations on 2¹⁵ elements or
# more among its threads (at::internal::GRAIN_SIZE), and waiting for these at every small operation costs more than they
# give: up to a hundred times more on a busy machine.
CHUNK = 1 << 14

Bytes = npt.NDArray[np.uint8]


def measure(segments: Sequence[Segment], rules: Rules) -> Counts:
    """Measure each segment; see contract.py for shapes."""
    columns = FIXED_COLUMNS + len(rules.tolerances) + max((len(s.references) for s in segments), default=0)
    integers = np.zeros((len(segments), columns), dtype=np.int64)
    floats = np.zeros((len(segments), 2), dtype=np.float64)
    for row, segment in enumerate(segments):
        stored = segment.current.detach().reshape(-1)
        for start in range(0, stored.numel(), CHUNK):
            chunk = _Chunk(segment, stored, slice(start, min(start + CHUNK, stored.numel())))
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
        differs = current != base
        difference = current[differs].float() - base[differs].float()
        changed = differs
        if rules.criterion.tolerance is not None:
            changed = differs.clone()
            changed[differs] = exceeds(difference, rules.criterion.tolerance)

        new, old = self._pack(changed), self._bytes(self.segment.mask)
        newly_changed, reverted = _popcount(new & ~old), _popcount(old & ~new)
        step_changed, touched = self._step(current, new ^ old)
        old[:] = new
        counts = [
            _popcount(new),
            newly_changed,
            reverted,
            step_changed,
            touched,
            self._hidden(differs, rules),
            current.numel() - int(torch.isfinite(current).sum()),
            *(int(exceeds(difference, tolerance).sum()) for tolerance in rules.tolerances),
            *(_popcount(new & self._bytes(reference)) for reference in self.segment.references),
        ]
        finite = difference[torch.isfinite(difference)].double()
        return counts, float(finite.square().sum()), float(finite.abs().max()) if finite.numel() else 0.0

    def _step(self, current: torch.Tensor, flipped: Bytes) -> tuple[int, int]:
        if self.segment.previous is None or self.segment.touched is None:
            return 0, 0
        step = self._pack(compare_previous(current, self.segment.previous[self.where])) | flipped
        touched = self._bytes(self.segment.touched)
        touched |= step
        return _popcount(step), _popcount(touched)

    def _hidden(self, differs: torch.Tensor, rules: Rules) -> int:
        if self.stored.dtype == rules.visible_dtype:
            return 0
        stored_differs = self.stored != self.base.to(self.stored.dtype)
        return int((stored_differs & ~differs).sum())

    def _bytes(self, words: torch.Tensor) -> Bytes:
        first = self.where.start // 8
        view: Bytes = words.numpy().view(np.uint8)
        return view[first : first + -(-(self.where.stop - self.where.start) // 8)]

    @staticmethod
    def _pack(bits: torch.Tensor) -> Bytes:
        return np.packbits(bits.numpy(), bitorder="little")


def _popcount(packed: Bytes) -> int:
    # numpy has a popcount only from version 2 on.
    return int.from_bytes(packed.tobytes(), "little").bit_count()
