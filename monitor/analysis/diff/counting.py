"""Counts the differences of two checkpoints with the kernels that measure a training, on several threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from monitor.analysis.diff.meter import Measured, Meter
from monitor.analysis.diff.spans import Span, spans_of
from monitor.analysis.diff.spill import MaskSpill
from monitor.analysis.pairs import Pairs
from monitor.analysis.processors import processors
from monitor.observe.chunk_sizes import WEIGHTS_IN_NUMBA
from monitor.observe.kernels.contract import FIXED_COLUMNS, MAX_ABS, SQUARED_NORM, Rules

# Weights that are read and measured at a time. On a CPU what a thread's loops take at once: both sides of it are still
# in its cache when they are measured. A GPU is busy with them for longer than it takes to start it.
WEIGHTS_ON_CPU = WEIGHTS_IN_NUMBA
WEIGHTS_ON_GPU = 1 << 23
_MOST_THREADS = 8

# Told after each span how many bytes of both sides it had.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Counted:
    """What was counted of some parameters, one row each.

    Attributes:
        integers: int64 of shape (parameters, columns of contract.Counts).
        floats: float64 of shape (parameters, 2): Σ|Δ|² and max|Δ| of the visible weights, over finite Δ.
        sums: int64 of shape (parameters, 2), of the base, for its fingerprint; zeros where no mask is made.
    """

    integers: torch.Tensor
    floats: torch.Tensor
    sums: torch.Tensor

    @classmethod
    def zeros(cls, parameters: int, rules: Rules) -> Counted:
        """Return counts of nothing yet."""
        return cls(
            torch.zeros(parameters, FIXED_COLUMNS + len(rules.tolerances), dtype=torch.int64, device="cpu"),
            torch.zeros(parameters, 2, dtype=torch.float64, device="cpu"),
            torch.zeros(parameters, 2, dtype=torch.int64, device="cpu"),
        )

    def add(self, measured: Measured) -> None:
        """Add the counts of a span."""
        row = measured.span.row
        self.integers[row] += measured.integers
        self.floats[row, SQUARED_NORM] += measured.floats[SQUARED_NORM]
        self.floats[row, MAX_ABS] = torch.maximum(self.floats[row, MAX_ABS], measured.floats[MAX_ABS])
        if measured.sums is not None:
            self.sums[row] += measured.sums


def best_device(local_rank: int) -> torch.device:
    """Return where to measure: a GPU of CUDA where there is one, else the host."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")


def count(
    pairs: Pairs,
    names: Sequence[str],
    rules: Rules,
    device: torch.device,
    *,
    spill: MaskSpill | None = None,
    progress: Progress = lambda _: None,
) -> Counted:
    """Compare some parameters of a pair of checkpoints.

    Args:
        pairs: the checkpoints.
        names: which parameters.
        rules: how to compare.
        device: where to measure.
        spill: where the mask goes, parameter by parameter in the order of `names`, and is closed; None for no mask.
        progress: told how many bytes were measured.

    Raises:
        CheckpointError: a file cannot be read.
        OSError: the mask cannot be written.
    """
    counted = Counted.zeros(len(names), rules)
    weights = WEIGHTS_ON_GPU if device.type == "cuda" else WEIGHTS_ON_CPU
    spans = list(spans_of(pairs, names, weights))
    for measured in _measured(spans, rules, device, with_mask=spill is not None):
        counted.add(measured)
        if spill is not None and measured.words is not None:
            spill.append(measured.words)
        progress(sum(measured.span.bytes))
    if spill is not None:
        spill.close()
    return counted


def _measured(spans: Sequence[Span], rules: Rules, device: torch.device, *, with_mask: bool) -> Iterator[Measured]:
    """Measure on several threads, and return the counts in order.

    What a conversion or an adapter puts together is whole in memory, so that it is measured alone.
    """
    room = max((size for span in spans if span.is_part for size in span.bytes), default=0)
    own = threading.local()

    def measure(span: Span) -> Measured:
        if not hasattr(own, "meter"):
            own.meter = Meter(rules, device, room, with_mask=with_mask)
        found: Measured = own.meter.measure(span)
        return found

    threads = _threads()
    with ThreadPoolExecutor(threads, thread_name_prefix="sparsity-monitor-diff") as pool:
        under_way: deque[tuple[Span, Future[Measured]]] = deque()
        try:
            for span in spans:
                while under_way and (len(under_way) > threads or not (span.is_part and under_way[-1][0].is_part)):
                    yield under_way.popleft()[1].result()
                under_way.append((span, pool.submit(measure, span)))
            while under_way:
                yield under_way.popleft()[1].result()
        finally:
            for _, future in under_way:
                future.cancel()


def _threads() -> int:
    """Return how many threads measure: those of the host, split among the processes that torchrun has started on it."""
    here = processors() // max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    return min(max(here, 1), _MOST_THREADS)
