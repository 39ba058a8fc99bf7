"""For a base in host memory: it comes to the device chunk by chunk, while the chunk before is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from monitor.observe.bits import BITS_PER_WORD
from monitor.observe.chunk_sizes import BYTES_OF_STREAMED_BASE
from monitor.observe.kernels.contract import Bind, Counts, Kernel, Rules, Segment, spans
from monitor.observe.kernels.transfer import to_device

# Where each tensor starts in a buffer.
_ALIGNMENT = 512


class StreamedBase:
    """Measures segments whose base is in host memory, with kernels that want it beside the weights.

    Args:
        segments: at least one, their weights all on one device.
        rules: how to compare.
        bind: makes a kernel for the spans of one chunk.
        chunk_bytes: size of each of two buffers on the device; a strided tensor that is larger makes them larger.
    """

    def __init__(
        self, segments: Sequence[Segment], rules: Rules, bind: Bind, chunk_bytes: int = BYTES_OF_STREAMED_BASE
    ) -> None:
        self._segments, self._rules = segments, rules
        self._device = segments[0].current.device
        chunks = _chunks(_cut(segments, chunk_bytes), chunk_bytes)
        size = max(sum(span.room for span in chunk) for chunk in chunks)
        buffers = [torch.empty(size, dtype=torch.uint8, device=self._device) for _ in range(min(2, len(chunks)))]
        self._streams = _Streams(self._device) if self._device.type == "cuda" else _NoStreams()
        self._chunks = [_Chunk.of(chunk, buffers[i % 2], rules, bind) for i, chunk in enumerate(chunks)]

    def __call__(self) -> Counts:
        """Measure each segment. The counts are on the weights' device."""
        counts = Counts.zeros(self._segments, self._rules, self._device)
        for i, chunk in enumerate(self._chunks):
            self._streams.copy(i % 2, chunk.copies)
            try:
                found = chunk.kernel()
            finally:
                # Also where it fails: what was launched before still reads the buffer when the next pass copies.
                self._streams.measured(i % 2)
            counts.add(chunk.rows, Counts(found.integers.to(self._device), found.floats.to(self._device)))
        return counts


@dataclass(frozen=True)
class _Span:
    """A span of a segment that fits into a buffer, and the segment's row in the counts."""

    row: int
    segment: Segment

    @property
    def room(self) -> int:
        """Bytes of a buffer that its base takes."""
        size = self.segment.base.numel() * self.segment.base.element_size()
        return -(-size // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class _Chunk:
    """What is in a buffer at a time: what to copy there, and the kernel that measures it."""

    copies: list[tuple[torch.Tensor, torch.Tensor]]
    rows: torch.Tensor
    kernel: Kernel

    @classmethod
    def of(cls, chunk: Sequence[_Span], buffer: torch.Tensor, rules: Rules, bind: Bind) -> _Chunk:
        segments, copies, start = [], [], 0
        for span in chunk:
            base = span.segment.base
            room = buffer[start : start + base.numel() * base.element_size()].view(base.dtype)
            segments.append(replace(span.segment, base=room))
            copies.append((base, room))
            start += span.room
        rows = torch.tensor([span.row for span in chunk], device="cpu")
        return cls(copies, to_device(rows, buffer.device), bind(segments, rules))


def _cut(segments: Sequence[Segment], size: int) -> list[_Span]:
    found = []
    for row, segment in enumerate(segments):
        weights = max(size // segment.base.element_size() // BITS_PER_WORD, 1) * BITS_PER_WORD
        found += [_Span(row, span) for span in spans(segment, weights)]
    return found


def _chunks(found: Sequence[_Span], size: int) -> list[list[_Span]]:
    chunks: list[list[_Span]] = []
    left = -1
    for span in found:
        if span.room > left:
            chunks.append([])
            left = size
        chunks[-1].append(span)
        left -= span.room
    return chunks


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
