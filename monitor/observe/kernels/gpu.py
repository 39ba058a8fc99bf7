"""Launches the kernel of triton_tiles.py: tables of addresses go in, sums of its tiles come back as Counts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from monitor.observe.bits import BITS_PER_WORD
from monitor.observe.chunk_sizes import WEIGHTS_IN_REFERENCE
from monitor.observe.kernels import triton_tiles
from monitor.observe.kernels.contract import MAX_ABS, SQUARED_NORM, Counts, Rules, Segment, column_count
from monitor.observe.kernels.in_chunks import ReferenceInChunks
from monitor.observe.kernels.kinds import KIND_OF
from monitor.observe.kernels.transfer import to_device

logger = logging.getLogger(__name__)

_ALIGNMENT = 16
WORDS, BLOCKS = 64, 16
# By whether all addresses are aligned: where not, a thread has an address and a mask of its own for each weight, and
# registers for half as many weights.
WARPS = {True: 4, False: 8}


class TritonError(Exception):
    """Triton cannot compile the kernel here."""


class TritonKernel:
    """Measures segments as contract.py says, without waiting for the device.

    Args:
        segments: at least one, all on one device.
        rules: how to compare.
        words: mask words in a block, a power of 2. A thread of the default loads 16 bytes of bfloat16 twice.
        blocks: blocks in a tile.

    Raises:
        TritonError: the kernel does not compile.
    """

    def __init__(self, segments: Sequence[Segment], rules: Rules, words: int = WORDS, blocks: int = BLOCKS) -> None:
        self._segments, self._rules = segments, rules
        self._device = segments[0].current.device
        bits = torch.tensor([*rules.tolerances, rules.criterion.tolerance or 0.0], dtype=torch.float32, device="cpu")
        limits = bits.view(torch.int32)
        self._limits = to_device(limits, self._device)
        self._strided: list[tuple[torch.Tensor, torch.Tensor]] = []
        lines: dict[_Variant, list[_Line]] = {}
        for row, segment in enumerate(segments):
            if _fits(segment):
                line = _Line(row, segment, self._contiguous(segment.current))
                for wide in (True, False):
                    variant = _variant(segment, rules, int(limits[-1]), wide=wide, words=words, blocks=blocks)
                    lines.setdefault(variant, []).append(line)
        built = (_Launch.of(variant, some, self._device) for variant, some in lines.items())
        self._launches = [launch for launch in built if len(launch.tiles)]
        rows = [row for row, segment in enumerate(segments) if not _fits(segment)]
        self._rows_of_others = to_device(torch.tensor(rows, dtype=torch.int64, device="cpu"), self._device)
        others = [segments[row] for row in rows]
        self._others = ReferenceInChunks(others, rules, WEIGHTS_IN_REFERENCE) if others else None
        self._compile()

    def _contiguous(self, current: torch.Tensor) -> torch.Tensor:
        if current.is_contiguous():
            return current
        copy = torch.empty(current.shape, dtype=current.dtype, device=current.device)
        self._strided.append((current.detach(), copy))
        return copy

    def _compile(self) -> None:
        columns = column_count(self._segments, self._rules)
        for launch in self._launches:
            try:
                reason = _why_not(launch.variant, columns, self._device)
            except (torch.OutOfMemoryError, OSError) as error:
                raise TritonError(repr(error)) from error
            if reason:
                raise TritonError(reason)

    def __call__(self) -> Counts:
        """Measure each segment; the counts are on the device, and complete in the order of its stream."""
        for strided, copy in self._strided:
            copy.copy_(strided.view(copy.shape))
        counts = Counts.zeros(self._segments, self._rules, self._device)
        sums = _Sums.zeros(counts.integers)
        with _on(self._device):
            for launch in self._launches:
                _measure(launch, self._limits, sums)
        counts.floats[:, SQUARED_NORM] = sums.squares
        counts.floats[:, MAX_ABS] = sums.largest.to(torch.int32).view(torch.float32)
        if self._others is not None:
            counts.put(self._rows_of_others, self._others())
        return counts


@dataclass(frozen=True)
class _Variant:
    """What the kernel is compiled for."""

    stored: int
    kept: int
    visible: int
    steps: bool
    # Bits of the criterion's tolerance in float32; None for the criterion "bits".
    limit: int | None
    limits: int
    references: int
    wide: bool
    words: int
    blocks: int


@dataclass(frozen=True)
class _Line:
    """A line of the kernel's table: a segment, its row in the counts, and its weights, contiguous."""

    row: int
    segment: Segment
    current: torch.Tensor

    @property
    def count(self) -> int:
        return self.current.numel()

    @property
    def aligned(self) -> bool:
        read_by_weight = (self.current, self.segment.base, self.segment.previous)
        return all(tensor is None or tensor.data_ptr() % _ALIGNMENT == 0 for tensor in read_by_weight)

    def entries(self) -> list[int]:
        """Return the columns of the table; see the constants of triton_tiles.py."""
        state = (self.segment.base, self.segment.mask, self.segment.previous, self.segment.touched)
        return [
            self.current.data_ptr(),
            *(0 if tensor is None else tensor.data_ptr() for tensor in state),
            self.count,
            self.row,
            *(reference.data_ptr() for reference in self.segment.references),
        ]


@dataclass(frozen=True)
class _Launch:
    """A launch of the kernel: what is measured by it, and where that is."""

    variant: _Variant
    tiles: torch.Tensor
    table: torch.Tensor

    @classmethod
    def of(cls, variant: _Variant, lines: Sequence[_Line], device: torch.device) -> _Launch:
        table = np.array([line.entries() for line in lines], dtype=np.int64)
        block = variant.words * BITS_PER_WORD
        weights = [(line.count, line.aligned) for line in lines]
        tiles = tiles_of(weights, block, block * variant.blocks, wide=variant.wide)
        return cls(variant, *(to_device(torch.from_numpy(array), device) for array in (tiles, table)))


@dataclass(frozen=True)
class _Sums:
    """What the kernel adds to: integers as Counts has them, float64 Σ|Δ|² per row, int64 bits of max|Δ| per row."""

    integers: torch.Tensor
    squares: torch.Tensor
    largest: torch.Tensor

    @classmethod
    def zeros(cls, integers: torch.Tensor) -> _Sums:
        squares, largest = (integers.new_zeros(len(integers), dtype=dtype) for dtype in (torch.float64, torch.int64))
        return cls(integers, squares, largest)


def _on(device: torch.device) -> AbstractContextManager[object]:
    # Triton launches on the current device, which need not be the one that the weights are on.
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _measure(launch: _Launch, limits: torch.Tensor, sums: _Sums) -> None:
    variant = launch.variant
    triton_tiles.measure[(len(launch.tiles),)](
        launch.tiles,
        launch.table,
        limits,
        variant.limit or 0,
        sums.integers,
        sums.squares,
        sums.largest,
        launch.table.shape[1],
        sums.integers.shape[1],
        STORED=variant.stored,
        KEPT=variant.kept,
        VISIBLE=variant.visible,
        STEPS=variant.steps,
        ATOL=variant.limit is not None,
        LIMITS=variant.limits,
        REFERENCES=variant.references,
        WIDE=variant.wide,
        WORDS=variant.words,
        BLOCKS=variant.blocks,
        num_warps=WARPS[variant.wide],
        # Explicit, because its default changes between versions of Triton; only Σ|Δ|² has what could be fused.
        enable_fp_fusion=True,
    )


@cache
def _why_not(variant: _Variant, columns: int, device: torch.device) -> str:
    """Compile the kernel, or load it from Triton's cache on disk, by measuring nothing.

    Returns:
        why that fails, and "" where it does not. Kept, so that what fails is not tried again for each adapter.

    Raises:
        OutOfMemoryError, OSError: what may be otherwise the next time, and is not kept.
    """
    tiles = torch.zeros(1, 2, dtype=torch.int64, device=device)
    table = torch.zeros(1, triton_tiles.REFERENCE.value + variant.references, dtype=torch.int64, device=device)
    limits = torch.zeros(variant.limits + 1, dtype=torch.int32, device=device)
    sums = _Sums.zeros(torch.zeros(1, columns, dtype=torch.int64, device=device))
    try:
        with _on(device):
            _measure(_Launch(variant, tiles, table), limits, sums)
    except (torch.OutOfMemoryError, OSError):
        raise
    except Exception as error:
        logger.debug("triton fails", exc_info=True)
        return repr(error)
    return ""


def _fits(segment: Segment) -> bool:
    return segment.current.dtype in KIND_OF and segment.base.dtype in KIND_OF


def _variant(segment: Segment, rules: Rules, limit: int, *, wide: bool, words: int, blocks: int) -> _Variant:
    return _Variant(
        stored=KIND_OF[segment.current.dtype],
        kept=KIND_OF[segment.base.dtype],
        visible=KIND_OF[rules.visible_dtype],
        steps=segment.previous is not None and segment.touched is not None,
        limit=None if rules.criterion.tolerance is None else limit,
        limits=len(rules.tolerances),
        references=len(segment.references),
        wide=wide,
        words=words,
        blocks=blocks,
    )


def tiles_of(
    weights: Sequence[tuple[int, bool]], block: int, tile: int, *, wide: bool
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return (line, first weight) of the tiles of a launch, as int64 of shape (programs, 2).

    Args:
        weights: of each line of the table, the number of weights, and whether all addresses are aligned.
        block: weights in a block.
        tile: weights in a tile.
        wide: whether the launch loads 16 bytes at a time, which full blocks of aligned tensors can be; else the rest.
    """
    full = [count // block * block if aligned else 0 for count, aligned in weights]
    bounds = ((0, end) if wide else (end, count) for end, (count, _) in zip(full, weights, strict=True))
    return np.concatenate([_tiles(line, first, last, tile) for line, (first, last) in enumerate(bounds)])


def _tiles(line: int, first: int, last: int, tile: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return (line, first weight) of the tiles that cover some of the weights."""
    firsts = np.arange(first, last, tile, dtype=np.int64)
    return np.stack([np.full_like(firsts, line), firsts], axis=1)
