"""Both sides of a pair, span by span, read ahead by threads while the span before is measured."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from monitor.analysis.conversion import Weights
from monitor.analysis.pairs import Pairs
from monitor.analysis.stored import StoredTensor

# Weights that are read and measured at a time; a multiple of 32. On a CPU two sides of them are still in the caches
# when they are measured; a GPU is busy for longer than it takes to start it.
WEIGHTS_ON_CPU = 1 << 20
WEIGHTS_ON_GPU = 1 << 24
# Spans that are read ahead, and bytes: what conversions and adapters put together is read whole, and comes alone.
_AHEAD = 3


@dataclass(frozen=True)
class Span:
    """Some of the weights of one parameter, in row-major order.

    Attributes:
        row: which of the names it belongs to.
        first: index of its first weight in the parameter; a multiple of 32.
        base, finetuned: the weights, of one shape (n,), in host memory; overwritten when the next span is asked for.
    """

    row: int
    first: int
    base: torch.Tensor
    finetuned: torch.Tensor


@dataclass(frozen=True)
class _Plan:
    row: int
    base: Weights
    finetuned: Weights
    first: int
    count: int

    @property
    def in_parts(self) -> bool:
        """Whether both sides can be read in part."""
        return all(isinstance(side, StoredTensor) and side.strides is None for side in (self.base, self.finetuned))


class Spans:
    """The weights of some pairs, in order. What is on disk as it is in the model is never whole in memory.

    Args:
        pairs: two checkpoints.
        names: which of their parameters.
        weights: of a span.
        pinned: whether to read into memory from which a GPU copies fast.
    """

    def __init__(self, pairs: Pairs, names: Sequence[str], weights: int, *, pinned: bool) -> None:
        self._plans = list(_plans(pairs, names, weights))
        sizes = [size for plan in self._plans if plan.in_parts for size in _bytes_of_sides(plan)]
        room = max(sizes, default=0)
        self._buffers = [
            [torch.empty(room, dtype=torch.uint8, device="cpu", pin_memory=pinned) for _ in range(2)]
            for _ in range(_AHEAD + 1)
        ]

    def __iter__(self) -> Iterator[Span]:
        """Read one span after the other.

        Raises:
            CheckpointError: a file cannot be read.
        """
        # One thread for each side: two files are read at once.
        with ThreadPoolExecutor(2, thread_name_prefix="sparsity-monitor-diff") as pool:
            ahead: deque[tuple[_Plan, list[Future[torch.Tensor]]]] = deque()
            try:
                for number, plan in enumerate(self._plans):
                    while ahead and (len(ahead) > _AHEAD - 1 or not (plan.in_parts and ahead[-1][0].in_parts)):
                        yield _awaited(*ahead.popleft())
                    ahead.append((plan, self._reading(pool, plan, self._buffers[number % len(self._buffers)])))
                while ahead:
                    yield _awaited(*ahead.popleft())
            finally:
                for _, futures in ahead:
                    for future in futures:
                        future.cancel()

    @staticmethod
    def _reading(pool: ThreadPoolExecutor, plan: _Plan, room: list[torch.Tensor]) -> list[Future[torch.Tensor]]:
        sides = (plan.base, plan.finetuned)
        if not plan.in_parts:
            return [pool.submit(_read_whole, side) for side in sides]
        return [pool.submit(_read_part, side, plan, buffer) for side, buffer in zip(sides, room, strict=True)]


def _plans(pairs: Pairs, names: Sequence[str], weights: int) -> Iterator[_Plan]:
    for row, name in enumerate(names):
        base, finetuned = pairs.base.parameters[name], pairs.finetuned.parameters[name]
        count = math.prod(finetuned.shape)
        whole = _Plan(row, base, finetuned, 0, count)
        if not whole.in_parts:
            yield whole
            continue
        for first in range(0, count, weights):
            yield _Plan(row, base, finetuned, first, min(weights, count - first))


def _bytes_of_sides(plan: _Plan) -> tuple[int, int]:
    return plan.count * plan.base.dtype.itemsize, plan.count * plan.finetuned.dtype.itemsize


def _read_whole(side: Weights) -> torch.Tensor:
    return side.read().view(-1)


def _read_part(side: Weights, plan: _Plan, room: torch.Tensor) -> torch.Tensor:
    assert isinstance(side, StoredTensor)
    target = room[: plan.count * side.dtype.itemsize].view(side.dtype)
    side.read_span(plan.first, target)
    return target


def _awaited(plan: _Plan, futures: list[Future[torch.Tensor]]) -> Span:
    base, finetuned = (future.result() for future in futures)
    return Span(plan.row, plan.first, base, finetuned)
