"""Launches the kernel of triton.py: builds its tables from segments, once, and turns what it counted into Counts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from monitor.observe.kernels import reference, triton
from monitor.observe.kernels.contract import BITS_PER_WORD, FIXED_COLUMNS, Counts, Rules, Segment
from monitor.observe.kernels.transfer import to_device

_KINDS = {
    torch.bfloat16: triton.BFLOAT16.value,
    torch.float16: triton.FLOAT16.value,
    torch.float32: triton.FLOAT32.value,
    torch.uint8: triton.LOW_BYTE.value,
}
_ALIGNMENT = 16
WORDS, BLOCKS = 64, 16
# By whether all addresses are aligned: where not, a thread has an address and a mask of its own for each weight, and
# registers for half as many weights.
WARPS = {True: 4, False: 8}


class TritonKernel:
    """Measures segments as contract.py says, without waiting for the device.

    Args:
        words: mask words in a block, a power of 2. A thread of the default loads 16 bytes of bfloat16 twice.
        blocks: blocks in a tile.
    """

    def __init__(self, words: int = WORDS, blocks: int = BLOCKS) -> None:
        self._words, self._blocks = words, blocks
        self._segments: Sequence[Segment] | None = None
        self._plan: _Plan | None = None

    def prepare(self, segments: Sequence[Segment], rules: Rules) -> None:
        """Compile what these segments need, or load it from the cache, so that the first observation does not wait."""
        plan = self._take(segments, rules)
        self._launch(plan, [replace(launch, tiles=launch.nothing) for launch in plan.launches], len(segments), rules)

    def __call__(self, segments: Sequence[Segment], rules: Rules) -> Counts:
        """Measure each segment; the counts are on the device, and complete in the order of its stream."""
        plan = self._take(segments, rules)
        for strided, copy in plan.strided:
            copy.copy_(strided.view(copy.shape))
        counts = self._launch(plan, plan.launches, len(segments), rules)
        if plan.others:
            others = reference.measure([segments[row] for row in plan.others], rules)
            counts.integers[:, : others.integers.shape[1]].index_copy_(0, plan.rows_of_others, others.integers)
            counts.floats.index_copy_(0, plan.rows_of_others, others.floats)
        return counts

    def _take(self, segments: Sequence[Segment], rules: Rules) -> _Plan:
        if self._plan is None or segments is not self._segments:
            block = self._words * BITS_PER_WORD
            self._segments, self._plan = segments, _Plan(segments, rules, block, block * self._blocks)
        return self._plan

    def _launch(self, plan: _Plan, launches: Sequence[_Launch], rows: int, rules: Rules) -> Counts:
        device = plan.device
        columns = FIXED_COLUMNS + len(rules.tolerances) + plan.references
        integers = torch.zeros(rows, columns, dtype=torch.int64, device=device)
        squares = torch.zeros(rows, dtype=torch.float64, device=device)
        largest = torch.zeros(rows, dtype=torch.int64, device=device)
        # Triton launches on the current device, which need not be the one that the weights are on.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            for launch in launches:
                self._measure(launch, plan, rules, (integers, squares, largest))
        floats = torch.stack([squares, largest.to(torch.int32).view(torch.float32).double()], dim=1)
        return Counts(integers, floats)

    def _measure(self, launch: _Launch, plan: _Plan, rules: Rules, totals: tuple[torch.Tensor, ...]) -> None:
        triton.measure[(len(launch.tiles),)](
            launch.tiles,
            launch.table,
            plan.limits,
            plan.limit,
            *totals,
            launch.table.shape[1],
            totals[0].shape[1],
            STORED=launch.key.stored,
            KEPT=launch.key.kept,
            VISIBLE=_KINDS[rules.visible_dtype],
            STEPS=launch.key.steps,
            ATOL=rules.criterion.tolerance is not None,
            LIMITS=len(rules.tolerances),
            REFERENCES=launch.key.references,
            WIDE=launch.key.wide,
            WORDS=self._words,
            BLOCKS=self._blocks,
            num_warps=WARPS[launch.key.wide],
            # Said, because its default changes between versions of Triton; only Σ|Δ|² has what could be fused.
            enable_fp_fusion=True,
        )


@dataclass(frozen=True)
class _Key:
    """What the kernel is compiled for."""

    stored: int
    kept: int
    steps: bool
    references: int
    wide: bool


@dataclass(frozen=True)
class _Launch:
    """A launch, and the tiles with which it would measure nothing."""

    key: _Key
    tiles: torch.Tensor
    table: torch.Tensor
    nothing: torch.Tensor


class _Plan:
    """Everything that stays the same from one observation to the next."""

    def __init__(self, segments: Sequence[Segment], rules: Rules, block: int, tile: int) -> None:
        self.device = segments[0].current.device
        self.strided: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.others: list[int] = []
        self.references = max((len(segment.references) for segment in segments), default=0)
        lines: dict[_Key, list[tuple[int, Segment, torch.Tensor]]] = {}
        for row, segment in enumerate(segments):
            if segment.current.dtype not in _KINDS or segment.base.dtype not in _KINDS:
                self.others.append(row)
                continue
            current = self._contiguous(segment.current)
            for wide in (True, False):
                lines.setdefault(_key(segment, wide), []).append((row, segment, current))
        self.rows_of_others = to_device(torch.tensor(self.others, dtype=torch.int64, device="cpu"), self.device)
        bits = torch.tensor([*rules.tolerances, rules.criterion.tolerance or 0.0], dtype=torch.float32, device="cpu")
        self.limits = to_device(bits.view(torch.int32), self.device)
        self.limit = int(bits.view(torch.int32)[-1])
        built = (self._launch(key, some, block, tile) for key, some in lines.items())
        self.launches = [launch for launch in built if len(launch.tiles)]

    def _contiguous(self, current: torch.Tensor) -> torch.Tensor:
        if current.is_contiguous():
            return current
        copy = torch.empty(current.shape, dtype=current.dtype, device=current.device)
        self.strided.append((current.detach(), copy))
        return copy

    def _launch(self, key: _Key, lines: Sequence[tuple[int, Segment, torch.Tensor]], block: int, tile: int) -> _Launch:
        table = np.array([_line(*line) for line in lines], dtype=np.int64)
        weights = [(current.numel(), _aligned(segment, current)) for _, segment, current in lines]
        tiles = tiles_of(weights, block, tile, wide=key.wide)
        nothing = np.array([[0, lines[0][2].numel()]], dtype=np.int64)
        tables = (to_device(torch.from_numpy(array), self.device) for array in (tiles, table, nothing))
        return _Launch(key, *tables)


def _key(segment: Segment, wide: bool) -> _Key:
    return _Key(
        stored=_KINDS[segment.current.dtype],
        kept=_KINDS[segment.base.dtype],
        steps=segment.previous is not None and segment.touched is not None,
        references=len(segment.references),
        wide=wide,
    )


def _line(row: int, segment: Segment, current: torch.Tensor) -> list[int]:
    state = (segment.base, segment.mask, segment.previous, segment.touched)
    return [
        current.data_ptr(),
        *(0 if tensor is None else tensor.data_ptr() for tensor in state),
        current.numel(),
        row,
        *(reference.data_ptr() for reference in segment.references),
    ]


def _aligned(segment: Segment, current: torch.Tensor) -> bool:
    read_by_weight = (current, segment.base, segment.previous)
    return all(tensor is None or tensor.data_ptr() % _ALIGNMENT == 0 for tensor in read_by_weight)


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
