"""For weights in host memory: loops over chunks of weights, on two threads.

The loops are numba_loops.py's, or where that cannot be had numpy_loops.py's. Reads per bfloat16 weight 2 + 2 bytes, and
with step masks 1 more; writes 1 and the masks' bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from monitor.observe.bits import BITS_PER_WORD
from monitor.observe.borrowed import borrow
from monitor.observe.chunk_sizes import ELEMENTS_ON_CPU
from monitor.observe.kernels.contract import FIXED_COLUMNS, Counts, Rules, Segment, first_reference, floats_of_all
from monitor.observe.kernels.in_chunks import ReferenceInChunks
from monitor.observe.kernels.kinds import KIND_OF

# Two threads come near to the bandwidth of the memory, and leave the other processors to the data loaders.
_THREADS = min(2, os.cpu_count() or 1)

_CPU = torch.device("cpu")
_VIEWS = {1: (torch.uint8, np.uint8), 2: (torch.int16, np.uint16), 4: (torch.int32, np.uint32)}

Array = npt.NDArray[Any]
# Bytes of a current, a base, and a visible weight: what loops are compiled for.
Widths = tuple[int, int, int]


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
    """Measures segments as contract.py says, with loops that `compile_loops` was called for.

    Args:
        segments: in host memory.
        rules: how to compare.
        loops: what measures a chunk.
    """

    def __init__(self, segments: Sequence[Segment], rules: Rules, loops: Loops) -> None:
        self.loops = loops
        self._segments, self._rules = segments, rules
        self._arrays = {row: _Arrays(segment, rules, loops) for row, segment in enumerate(segments) if _fits(segment)}
        self._chunks = [(row, chunk) for row, arrays in self._arrays.items() for chunk in arrays.chunks()]
        rows = [row for row in range(len(segments)) if row not in self._arrays]
        self._other_rows = torch.tensor(rows, dtype=torch.int64, device=_CPU)
        others = [segments[row] for row in rows]
        self._others = ReferenceInChunks(others, rules, ELEMENTS_ON_CPU) if others else None

    def __call__(self) -> Counts:
        """Measure each segment."""
        # One iterator for all threads: taking the next of a list is atomic under the interpreter's lock.
        queue = iter(self._chunks)
        helpers = min(_THREADS, len(self._chunks)) - 1
        if helpers > 0:
            with ThreadPoolExecutor(helpers, "sparsity-monitor") as pool:
                theirs = [pool.submit(self._measure, queue) for _ in range(helpers)]
                counts = _sum([self._measure(queue), *(each.result() for each in theirs)])
        else:
            counts = self._measure(queue)
        if self._others is not None:
            counts.put(self._other_rows, self._others())
        return counts

    def _measure(self, queue: Iterator[tuple[int, slice]]) -> Counts:
        """Measure chunks until there are no more."""
        counts = Counts.zeros(self._segments, self._rules, _CPU)
        integers, floats = counts.integers.numpy(), counts.floats.numpy()
        for row, chunk in queue:
            self._arrays[row].measure(chunk, integers[row], floats[row])
        return counts


def widths_of(segments: Sequence[Segment], rules: Rules) -> frozenset[Widths]:
    """Return what loops must be compiled for to measure these segments."""
    visible = rules.visible_dtype.itemsize
    fitting = (segment for segment in segments if _fits(segment))
    return frozenset((segment.current.element_size(), segment.base.element_size(), visible) for segment in fitting)


def compile_loops(loops: Loops, widths: Widths) -> None:
    """Compile what measures weights of these widths, or load it from the cache on disk, by measuring nothing."""
    current, base, nothing = (np.zeros(0, dtype=_VIEWS[width][1]) for width in widths)
    words = np.zeros(0, dtype=np.uint32)
    previous = np.zeros(0, dtype=np.uint32 if widths[2] == 4 else np.uint8)
    integers, floats = np.zeros(FIXED_COLUMNS, dtype=np.int64), np.zeros(2, dtype=np.float64)
    # Kinds are numbers to the loops, and of no matter where there is nothing to convert.
    loops.measure(current, base, nothing, nothing, words, previous, words, 0, 0, 0, -1, words, integers, floats)
    loops.intersect(words, words)


def _sum(shares: Sequence[Counts]) -> Counts:
    """Add up what each thread counted of the same segments."""
    integers = torch.stack([counts.integers for counts in shares])
    return Counts(integers.sum(dim=0), floats_of_all(torch.stack([counts.floats for counts in shares])))


class _Arrays:
    """A segment as arrays of unsigned integers that look at its memory, which is the segment's to keep alive."""

    def __init__(self, segment: Segment, rules: Rules, loops: Loops) -> None:
        self._loops = loops
        self._count = segment.current.numel()
        self._strided = segment.current.detach()
        self._current = _bits(segment.current) if segment.current.is_contiguous() else None
        self._base = _bits(segment.base)
        self._mask = _bits(segment.mask)
        visible = rules.visible_dtype
        self._nothing = np.zeros(0, dtype=_VIEWS[visible.itemsize][1])
        self._previous = np.zeros(0, dtype=np.uint32 if visible == torch.float32 else np.uint8)
        self._touched = self._mask[:0]
        if segment.previous is not None and segment.touched is not None:
            self._previous, self._touched = _bits(segment.previous), _bits(segment.touched)
        self._references = [_bits(reference) for reference in segment.references]
        self._first_reference = first_reference(rules)
        self._kinds = (KIND_OF[segment.current.dtype], KIND_OF[segment.base.dtype], KIND_OF[visible])
        tolerance = rules.criterion.tolerance
        self._limit = -1 if tolerance is None else int(_tolerance_bits([tolerance])[0])
        self._limits = _tolerance_bits(rules.tolerances)

    def chunks(self) -> Iterator[slice]:
        """Return the slices that `measure` takes. What is not contiguous is one of them, as it is gathered whole."""
        step = self._loops.CHUNK if self._current is not None else max(self._count, 1)
        return (slice(start, min(start + step, self._count)) for start in range(0, self._count, step))

    def measure(self, chunk: slice, integers: npt.NDArray[np.int64], floats: npt.NDArray[np.float64]) -> None:
        """Add the counts of some of the weights, which start at a word, to a row of the counts."""
        if self._current is not None:
            self._measure(chunk, self._current[chunk], integers, floats)
            return
        current = self._gather()
        for start in range(chunk.start, chunk.stop, self._loops.CHUNK):
            some = slice(start, min(start + self._loops.CHUNK, chunk.stop))
            self._measure(some, current[some], integers, floats)

    def _measure(
        self, where: slice, current: Array, integers: npt.NDArray[np.int64], floats: npt.NDArray[np.float64]
    ) -> None:
        stored, kept, visible = self._kinds
        base = self._base[where]
        words = slice(where.start // BITS_PER_WORD, -(-where.stop // BITS_PER_WORD))
        mask = self._mask[words]
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
            self._limit,
            self._limits,
            integers,
            floats,
        )
        for column, reference_words in enumerate(self._references, start=self._first_reference):
            integers[column] += self._loops.intersect(mask, reference_words[words])

    def _gather(self) -> Array:
        # By numpy: torch would wake up its threads.
        signed, unsigned = _VIEWS[self._strided.element_size()]
        strided = borrow(self._strided).view(signed).numpy()
        gathered: Array = np.ascontiguousarray(strided).reshape(-1).view(unsigned)
        return gathered


def _fits(segment: Segment) -> bool:
    read = (segment.current, segment.base)
    return all(weights.dtype in KIND_OF and weights.data_ptr() % weights.element_size() == 0 for weights in read)


def _bits(tensor: torch.Tensor) -> Array:
    signed, unsigned = _VIEWS[tensor.element_size()]
    array: Array = borrow(tensor.detach().view(-1)).view(signed).numpy().view(unsigned)
    return array


def _tolerance_bits(tolerances: Sequence[float]) -> npt.NDArray[np.uint32]:
    return np.array(tolerances, dtype=np.float32).view(np.uint32)
