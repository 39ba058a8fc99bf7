"""For a base in host memory: it comes to the device piece by piece, while the piece before is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from monitor.observe.kernels.contract import BITS_PER_WORD, FIXED_COLUMNS, Counts, Kernel, Rules, Segment, word_count
from monitor.observe.kernels.transfer import to_device

# Where each tensor starts in a buffer.
_ALIGNMENT = 512
PIECE_BYTES = 64 << 20


class StreamedBase:
    """Measures segments whose base is in host memory, with a kernel that wants it beside the weights.

    Args:
        make_kernel: makes a kernel for the segments of one piece; it may remember them.
        piece_bytes: size of each of two buffers on the device; a strided tensor that is larger makes them larger.
    """

    def __init__(
        self,
        make_kernel: Callable[[Sequence[Segment], Rules], Kernel],
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self._make_kernel = make_kernel
        self._piece_bytes = piece_bytes
        self._segments: Sequence[Segment] | None = None
        self._pieces: list[_Piece] = []

    def __call__(self, segments: Sequence[Segment], rules: Rules) -> Counts:
        """Measure each segment; see contract.py for shapes. The counts are on the weights' device."""
        self.prepare(segments, rules)
        device = segments[0].current.device
        references = max((len(segment.references) for segment in segments), default=0)
        columns = FIXED_COLUMNS + len(rules.tolerances) + references
        integers = torch.zeros(len(segments), columns, dtype=torch.int64, device=device)
        floats = torch.zeros(len(segments), 2, dtype=torch.float64, device=device)
        for i, piece in enumerate(self._pieces):
            self._lane.copy(i % 2, piece.copies)
            try:
                counts = piece.kernel(piece.segments, rules)
            finally:
                # Also where it fails: what was launched before still reads the buffer when the next pass copies.
                self._lane.measured(i % 2)
            integers[:, : counts.integers.shape[1]].index_add_(0, piece.rows, counts.integers.to(device))
            found = counts.floats.to(device)
            floats[:, 0].index_add_(0, piece.rows, found[:, 0])
            floats[:, 1].scatter_reduce_(0, piece.rows, found[:, 1], "amax")
        return Counts(integers, floats)

    def prepare(self, segments: Sequence[Segment], rules: Rules) -> None:
        """Cut the segments into pieces, make the buffers, and the kernels for what will be in these."""
        if segments is self._segments:
            return
        device = segments[0].current.device
        self._segments = segments
        parts = [part for row, segment in enumerate(segments) for part in self._split(row, segment)]
        batches = _batches(parts, self._piece_bytes)
        size = max((sum(part.room for part in batch) for batch in batches), default=0)
        buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(min(2, len(batches)))]
        self._lane = _Streams(device) if device.type == "cuda" else _NoStreams()
        self._pieces = [self._piece(batch, buffers[i % 2], rules) for i, batch in enumerate(batches)]

    def _split(self, row: int, segment: Segment) -> list[_Part]:
        count = segment.current.numel()
        if not segment.current.is_contiguous():
            return [_Part(row, segment)]
        step = max(self._piece_bytes // segment.base.element_size() // BITS_PER_WORD, 1) * BITS_PER_WORD
        slices = (slice(start, min(start + step, count)) for start in range(0, count, step))
        return [_Part(row, cut(segment, where)) for where in slices]

    def _piece(self, parts: Sequence[_Part], buffer: torch.Tensor, rules: Rules) -> _Piece:
        segments, copies, start = [], [], 0
        for part in parts:
            base = part.segment.base
            room = buffer[start : start + base.numel() * base.element_size()].view(base.dtype)
            segments.append(replace(part.segment, base=room))
            copies.append((base, room))
            start += part.room
        rows = torch.tensor([part.row for part in parts], device="cpu")
        kernel = self._make_kernel(segments, rules)
        return _Piece(segments, copies, to_device(rows, buffer.device), kernel)


@dataclass(frozen=True)
class _Part:
    """A run of a segment that fits into a buffer."""

    row: int
    segment: Segment

    @property
    def room(self) -> int:
        size = self.segment.base.numel() * self.segment.base.element_size()
        return -(-size // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class _Piece:
    """What is in a buffer at a time."""

    segments: list[Segment]
    copies: list[tuple[torch.Tensor, torch.Tensor]]
    rows: torch.Tensor
    kernel: Kernel


def cut(segment: Segment, where: slice) -> Segment:
    """Return a run of the weights of a contiguous segment that starts at a word; all of it are views."""
    words = slice(where.start // BITS_PER_WORD, where.start // BITS_PER_WORD + word_count(where.stop - where.start))
    return Segment(
        current=segment.current.detach().view(-1)[where],
        base=segment.base[where],
        mask=segment.mask[words],
        previous=None if segment.previous is None else segment.previous[where],
        touched=None if segment.touched is None else segment.touched[words],
        references=tuple(reference[words] for reference in segment.references),
    )


def _batches(parts: Sequence[_Part], size: int) -> list[list[_Part]]:
    batches: list[list[_Part]] = []
    left = -1
    for part in parts:
        if part.room > left:
            batches.append([])
            left = size
        batches[-1].append(part)
        left -= part.room
    return batches


class _NoStreams:
    """Without streams everything happens in order."""

    def copy(self, buffer: int, copies: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for source, target in copies:
            target.copy_(source)

    def measured(self, buffer: int) -> None:
        pass


class _Streams(_NoStreams):
    """Copies on a stream of their own, into the buffer that is not being measured."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._free: list[torch.cuda.Event | None] = [None, None]
        self._device = device

    def copy(self, buffer: int, copies: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        free = self._free[buffer]
        if free is None:
            # The first copy must not overtake what used the buffer's memory before.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        else:
            self._stream.wait_event(free)
        with torch.cuda.stream(self._stream):
            for source, target in copies:
                target.copy_(source, non_blocking=True)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def measured(self, buffer: int) -> None:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._free[buffer] = event
