"""Reads a span and measures it, in one thread: what was just read is still in this processor's cache."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch

from monitor.analysis.diff.spans import Span
from monitor.analysis.stored import StoredTensor
from monitor.observe.base.fingerprint import span_sums
from monitor.observe.bits import word_count
from monitor.observe.kernels import kernel_for
from monitor.observe.kernels.contract import Kernel, Rules, Segment


@dataclass(frozen=True)
class Measured:
    """What was counted of a span.

    Attributes:
        span: the span.
        integers, floats: a row of contract.Counts each.
        sums: of the base, for its fingerprint; None where no mask is made.
        words: the update mask, int32 in host memory; None where none is made.
    """

    span: Span
    integers: torch.Tensor
    floats: torch.Tensor
    sums: torch.Tensor | None = None
    words: torch.Tensor | None = None


@dataclass(frozen=True)
class _Bound:
    """A kernel, bound to room for a span of some size and dtypes."""

    base: torch.Tensor
    finetuned: torch.Tensor
    mask: torch.Tensor
    kernel: Kernel


class Meter:
    """Measures one span after the other, in room of its own.

    Args:
        rules: how to compare.
        device: where to measure.
        room: bytes of the largest side of a span that is read in part.
        with_mask: whether masks are wanted, and sums for the fingerprint that a mask has.
    """

    def __init__(self, rules: Rules, device: torch.device, room: int, *, with_mask: bool) -> None:
        self._rules, self._device, self._room, self._with_mask = rules, device, room, with_mask
        self._bound: dict[tuple[torch.dtype, torch.dtype, int], _Bound] = {}

    @cached_property
    def _host(self) -> list[torch.Tensor]:
        """Room for both sides, from which a GPU copies fast where that is one."""
        pinned = self._device.type == "cuda"
        return [torch.empty(self._room, dtype=torch.uint8, device="cpu", pin_memory=pinned) for _ in range(2)]

    @cached_property
    def _device_side(self) -> list[torch.Tensor]:
        if self._device.type == "cpu":
            return self._host
        return [torch.empty(self._room, dtype=torch.uint8, device=self._device) for _ in range(2)]

    def measure(self, span: Span) -> Measured:
        """Read a span on both sides, and compare them.

        Raises:
            CheckpointError: a file cannot be read.
        """
        # A thread's own device is the first one, unless it is told.
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            return self._measure_part(span) if span.is_part else self._measure_whole(span)

    def _measure_part(self, span: Span) -> Measured:
        bound = self._bound_to(span)
        sides = ((span.base, bound.base), (span.finetuned, bound.finetuned))
        for (side, there), room in zip(sides, self._host, strict=True):
            assert isinstance(side, StoredTensor)
            here = room[: there.nbytes].view(side.dtype)
            side.read_span(span.first, here)
            if there.device.type != "cpu":
                there.copy_(here, non_blocking=True)
        return self._counted(span, bound)

    def _measure_whole(self, span: Span) -> Measured:
        base, finetuned = (side.read().view(-1).to(self._device) for side in (span.base, span.finetuned))
        return self._counted(span, self._bind(base, finetuned))

    def _bound_to(self, span: Span) -> _Bound:
        key = (*span.dtypes, span.count)
        if key not in self._bound:
            sizes = zip(self._device_side, span.bytes, span.dtypes, strict=True)
            base, finetuned = (room[:size].view(dtype) for room, size, dtype in sizes)
            self._bound[key] = self._bind(base, finetuned)
        return self._bound[key]

    def _bind(self, base: torch.Tensor, finetuned: torch.Tensor) -> _Bound:
        # What was in the mask before matters to counts that are not looked at here.
        mask = torch.zeros(word_count(finetuned.numel()), dtype=torch.int32, device=self._device)
        return _Bound(base, finetuned, mask, kernel_for([Segment(finetuned, base, mask)], self._rules))

    def _counted(self, span: Span, bound: _Bound) -> Measured:
        counts = bound.kernel()
        integers, floats = counts.integers[0].cpu(), counts.floats[0].cpu()
        if not self._with_mask:
            return Measured(span, integers, floats)
        sums = span_sums(bound.base, self._rules.visible_dtype, span.first)
        return Measured(span, integers, floats, sums, bound.mask.to("cpu", copy=True))
