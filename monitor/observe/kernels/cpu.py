"""For weights in host memory: loops over chunks of weights, by two plain threads.

The loops are numba_loops.py's, or where that cannot be had numpy_loops.py's. Reads per bfloat16 weight 2 + 2 bytes, and
with step masks 1 more; writes 1 and the masks' bits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from monitor.observe.kernels import kinds, reference
from monitor.observe.kernels.contract import BITS_PER_WORD, FIXED_COLUMNS, Counts, Rules, Segment
from monitor.observe.kernels.in_pieces import InPieces

# Two threads come near to the bandwidth of the memory, and leave the other processors to the data loaders.
_THREADS = min(2, os.cpu_count() or 1)

_KINDS = {
    torch.bfloat16: kinds.BFLOAT16,
    torch.float16: kinds.FLOAT16,
    torch.float32: kinds.FLOAT32,
    torch.uint8: kinds.LOW_BYTE,
}
# Of what only torch can convert, as float64, few weights at a time: from 2¹⁵ elements on, torch splits operations among
# its threads (at::internal::GRAIN_SIZE), and waiting for these costs more than they give.
_PIECE = 1 << 14
_VIEWS = {1: (torch.uint8, np.uint8), 2: (torch.int16, np.uint16), 4: (torch.int32, np.uint32)}

Array = npt.NDArray[Any]


class Loops(Protocol):
    """A module with loops over bit patterns."""

    @property
    def CHUNK(self) -> int:  # noqa: N802 - it is a module's constant
        """Weights that are measured at a time; a multiple of 32."""

    @property
    def measure(self) -> Callable[..., None]:
        """Measures a chunk that starts at a word; see numba_loops.py for the arguments."""

    @property
    def intersect(self) -> Callable[[Array, Array], int]:
        """Counts the ones that two masks have in common."""


class CpuKernel:
    """Measures segments as contract.py says; remembers the arrays of the segments that it was given last."""

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self._others = InPieces(reference.measure, _PIECE)
        self._segments: Sequence[Segment] | None = None
        self._arrays: dict[int, _Arrays] = {}
        self._rest: list[Segment] = []

    def prepare(self, segments: Sequence[Segment], rules: Rules) -> None:
        """Compile what these segments need, or load it from the cache, so that the first observation does not wait."""
        self._take(segments, rules)
        empty = _Totals.zeros(1, rules, max((len(segment.references) for segment in segments), default=0))
        for arrays in {arrays.signature: arrays for arrays in self._arrays.values()}.values():
            arrays.measure(slice(0, 0), rules, empty.integers[0], empty.floats[0])
        self._loops.intersect(np.zeros(0, np.uint32), np.zeros(0, np.uint32))

    def __call__(self, segments: Sequence[Segment], rules: Rules) -> Counts:
        """Measure each segment; see contract.py for shapes."""
        self._take(segments, rules)
        references = max((len(segment.references) for segment in segments), default=0)
        chunks = list(self._chunks())
        threads = _THREADS if len(chunks) > 1 else 1
        totals = [_Totals.zeros(len(segments), rules, references) for _ in range(threads)]
        queue = _Queue(chunks)
        helpers = [threading.Thread(target=self._work, args=(queue, rules, total)) for total in totals[1:]]
        for helper in helpers:
            helper.start()
        self._work(queue, rules, totals[0])
        for helper in helpers:
            helper.join()
        if queue.error is not None:
            raise queue.error
        counts = _Totals.sum(totals)
        if self._rest:
            measured = self._others(self._rest, rules)
            rows = [row for row in range(len(segments)) if row not in self._arrays]
            counts.integers[rows, : measured.integers.shape[1]] = measured.integers.numpy()
            counts.floats[rows] = measured.floats.numpy()
        return Counts(torch.from_numpy(counts.integers), torch.from_numpy(counts.floats))

    def _take(self, segments: Sequence[Segment], rules: Rules) -> None:
        if segments is not self._segments:
            self._segments = segments
            self._arrays = {
                row: _Arrays(segment, rules.visible_dtype, self._loops)
                for row, segment in enumerate(segments)
                if _fits(segment.current) and _fits(segment.base)
            }
            self._rest = [segment for row, segment in enumerate(segments) if row not in self._arrays]

    def _chunks(self) -> Iterator[tuple[int, slice]]:
        for row, arrays in self._arrays.items():
            step = self._loops.CHUNK if arrays.contiguous else max(arrays.count, 1)
            for start in range(0, arrays.count, step):
                yield row, slice(start, min(start + step, arrays.count))

    def _work(self, queue: _Queue, rules: Rules, totals: _Totals) -> None:
        try:
            while (chunk := queue.take()) is not None:
                row, where = chunk
                self._arrays[row].measure(where, rules, totals.integers[row], totals.floats[row])
        except Exception as error:  # noqa: BLE001 - raised again by the thread that measures
            queue.error = error


class _Queue:
    """Hands chunks to threads. Taking from a list is atomic under the interpreter's lock."""

    def __init__(self, chunks: list[tuple[int, slice]]) -> None:
        self._chunks = chunks[::-1]
        self.error: Exception | None = None

    def take(self) -> tuple[int, slice] | None:
        try:
            return self._chunks.pop()
        except IndexError:
            return None


@dataclass(frozen=True)
class _Totals:
    integers: npt.NDArray[np.int64]
    floats: npt.NDArray[np.float64]

    @classmethod
    def zeros(cls, rows: int, rules: Rules, references: int) -> _Totals:
        columns = FIXED_COLUMNS + len(rules.tolerances) + references
        return cls(np.zeros((rows, columns), dtype=np.int64), np.zeros((rows, 2), dtype=np.float64))

    @classmethod
    def sum(cls, totals: Sequence[_Totals]) -> _Totals:
        squares = np.sum([total.floats[:, 0] for total in totals], axis=0)
        maxima = np.max([total.floats[:, 1] for total in totals], axis=0)
        return cls(np.sum([total.integers for total in totals], axis=0), np.stack([squares, maxima], axis=1))


class _Arrays:
    """A segment as arrays of unsigned integers that share its memory."""

    def __init__(self, segment: Segment, visible_dtype: torch.dtype, loops: Loops) -> None:
        self._loops = loops
        self.count = segment.current.numel()
        self.contiguous = segment.current.is_contiguous()
        self._strided = segment.current.detach()
        self._current = _bits(segment.current) if self.contiguous else None
        self._base = _bits(segment.base)
        self._mask = _bits(segment.mask)
        self._nothing = np.zeros(0, dtype=_VIEWS[visible_dtype.itemsize][1])
        self._previous = np.zeros(0, dtype=np.uint32 if visible_dtype == torch.float32 else np.uint8)
        self._touched = self._mask[:0]
        if segment.previous is not None and segment.touched is not None:
            self._previous, self._touched = _bits(segment.previous), _bits(segment.touched)
        self._references = [_bits(reference) for reference in segment.references]
        self._kinds = (_KINDS[segment.current.dtype], _KINDS[segment.base.dtype], _KINDS[visible_dtype])
        self.signature = (segment.current.dtype.itemsize, segment.base.dtype.itemsize, visible_dtype.itemsize)

    def measure(
        self, where: slice, rules: Rules, integers: npt.NDArray[np.int64], floats: npt.NDArray[np.float64]
    ) -> None:
        """Add the counts of some of the weights, which start at a word, to a row of the totals."""
        current = self._current[where] if self._current is not None else self._gather()
        # What is not contiguous is gathered once, whole.
        for start in range(where.start, max(where.stop, where.start + 1), self._loops.CHUNK):
            part = slice(start, min(start + self._loops.CHUNK, where.stop))
            here = current[part.start - where.start : part.stop - where.start]
            self._measure(part, here, rules, integers, floats)

    def _measure(
        self,
        where: slice,
        current: Array,
        rules: Rules,
        integers: npt.NDArray[np.int64],
        floats: npt.NDArray[np.float64],
    ) -> None:
        stored, kept, visible = self._kinds
        base = self._base[where]
        words = slice(where.start // BITS_PER_WORD, -(-where.stop // BITS_PER_WORD))
        mask = self._mask[words]
        tolerance = rules.criterion.tolerance
        self._loops.measure(
            current,
            base,
            current if stored == visible else self._nothing,
            base if kept == visible else self._nothing,
            mask,
            self._previous[where],
            self._touched[words],
            stored,
            kept,
            visible,
            -1 if tolerance is None else int(_tolerance_bits([tolerance])[0]),
            _tolerance_bits(rules.tolerances),
            integers,
            floats,
        )
        first = FIXED_COLUMNS + len(rules.tolerances)
        for i, reference_words in enumerate(self._references):
            integers[first + i] += self._loops.intersect(mask, reference_words[words])

    def _gather(self) -> Array:
        # By numpy: torch would wake up its threads.
        signed, unsigned = _VIEWS[self._strided.element_size()]
        gathered: Array = np.ascontiguousarray(self._strided.view(signed).numpy()).reshape(-1).view(unsigned)
        return gathered


def _fits(weights: torch.Tensor) -> bool:
    return weights.dtype in _KINDS and weights.data_ptr() % weights.element_size() == 0


def _bits(tensor: torch.Tensor) -> Array:
    signed, unsigned = _VIEWS[tensor.element_size()]
    array: Array = tensor.detach().view(-1).view(signed).numpy().view(unsigned)
    return array


def _tolerance_bits(tolerances: Sequence[float]) -> npt.NDArray[np.uint32]:
    return np.array(tolerances, dtype=np.float32).view(np.uint32)
