"""Launches the kernel of triton.py: builds its tables from segments, once, and turns what it counted into Counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
_WARPS = 4


class TritonKernel:
    """Measures segments as contract.py says, without waiting for the device.

    Args:
        words: mask words in a block, a power of 2. A thread of the default loads 16 bytes of bfloat16 twice.
        blocks: blocks in a tile.
    """

    def __init__(self, words: int = 64, blocks: int = 16) -> None:
        self._words, self._blocks = words, blocks
        self._segments: Sequence[Segment] | None = None
        self._plan: _Plan | None = None

    def __call__(self, segments: Sequence[Segment], rules: Rules) -> Counts:
        """Measure each segment; the counts are on the device, and complete in the order of its stream."""
        if self._plan is None or segments is not self._segments:
            tile = self._words * self._blocks * BITS_PER_WORD
            self._segments, self._plan = segments, _Plan(segments, rules, tile)
        plan = self._plan
        for strided, copy in plan.strided:
            copy.copy_(strided.view(copy.shape))
        rows, device = len(segments), plan.device
        references = max((len(segment.references) for segment in segments), default=0)
        columns = FIXED_COLUMNS + len(rules.tolerances) + references
        integers = torch.zeros(rows, columns, dtype=torch.int64, device=device)
        squares = torch.zeros(rows, dtype=torch.float64, device=device)
        largest = torch.zeros(rows, dtype=torch.int64, device=device)
        for launch in plan.launches:
            triton.measure[(len(launch.tiles),)](
                launch.tiles,
                launch.table,
                plan.limits,
                plan.limit,
                integers,
                squares,
                largest,
                launch.table.shape[1],
                columns,
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
                num_warps=_WARPS,
                # Said, because its default changes between versions of Triton; only Σ|Δ|² has what could be fused.
                enable_fp_fusion=True,
            )
        floats = torch.stack([squares, largest.to(torch.int32).view(torch.float32).double()], dim=1)
        if plan.others:
            counts = reference.measure([segments[row] for row in plan.others], rules)
            where = torch.tensor(plan.others, device=device)
            integers[where, : counts.integers.shape[1]] = counts.integers.to(device)
            floats[where] = counts.floats.to(device)
        return Counts(integers, floats)


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
    key: _Key
    tiles: torch.Tensor
    table: torch.Tensor


class _Plan:
    """Everything that stays the same from one observation to the next."""

    def __init__(self, segments: Sequence[Segment], rules: Rules, tile: int) -> None:
        self.device = segments[0].current.device
        self.strided: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.others: list[int] = []
        lines: dict[_Key, list[tuple[int, Segment, torch.Tensor]]] = {}
        for row, segment in enumerate(segments):
            if segment.current.dtype not in _KINDS or segment.base.dtype not in _KINDS:
                self.others.append(row)
                continue
            current = self._contiguous(segment.current)
            for wide in (True, False):
                lines.setdefault(_key(segment, wide), []).append((row, segment, current))
        bits = torch.tensor([*rules.tolerances, rules.criterion.tolerance or 0.0], dtype=torch.float32)
        self.limits = to_device(bits.view(torch.int32), self.device)
        self.limit = int(bits.view(torch.int32)[-1])
        built = (self._launch(key, some, tile) for key, some in lines.items())
        self.launches = [launch for launch in built if len(launch.tiles)]

    def _contiguous(self, current: torch.Tensor) -> torch.Tensor:
        if current.is_contiguous():
            return current
        copy = torch.empty(current.shape, dtype=current.dtype, device=current.device)
        self.strided.append((current.detach(), copy))
        return copy

    def _launch(self, key: _Key, lines: Sequence[tuple[int, Segment, torch.Tensor]], tile: int) -> _Launch:
        table = np.array([_line(*line) for line in lines], dtype=np.int64)
        aligned = [_aligned(segment, current) for _, segment, current in lines]
        tiles = np.concatenate(
            [_tiles(i, segment.current.numel(), tile, aligned[i], key.wide) for i, (_, segment, _) in enumerate(lines)]
        )
        return _Launch(
            key, to_device(torch.from_numpy(tiles), self.device), to_device(torch.from_numpy(table), self.device)
        )


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


def _tiles(
    line: int, count: int, tile: int, aligned: bool, wide: bool
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return (line, first weight) of the tiles that a launch measures: the full ones, or the rest."""
    full = count // tile * tile if aligned else 0
    firsts = np.arange(0, full, tile, dtype=np.int64) if wide else np.arange(full, count, tile, dtype=np.int64)
    return np.stack([np.full_like(firsts, line), firsts], axis=1)
