"""One observation of weights on a GPU, in turns with a copy on the same device: what `observe --device cuda` prints.

What is timed is what users run: `start`, with everything that it puts on the device. Times are the device's own.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from monitor.observe.base.mode import free_bytes
from monitor.observe.kernels.contract import Bind, Counts, Kernel, Rules, Segment
from monitor.observe.kernels.streamed_base import StreamedBase
from monitor.observe.observer import UpdateObserver
from tests.benchmarks.shapes import ARCHITECTURES, Weights

BASE_MODES = ("device", "low_byte", "shared", "host")
HEADER = (
    "| model | weights | base | bytes per weight | ms, median | quartiles | GB/s | copy meanwhile, GB/s "
    "| share of the copy | quartiles | host, ms |\n|---|---|---|---|---|---|---|---|---|---|---|"
)
# Which no cache holds, and which are copied in turns.
_BUFFER_BYTES = 1 << 30
_BUFFERS = 4
_HOST_BYTES = 256 << 20
# Copies before each turn: while they are under way the host is done with queueing what is timed.
_AHEAD = 8
_WARM_UP = 1


@dataclass(frozen=True)
class Side:
    """A way to keep weights and base. The visible dtype is bfloat16, step masks are on."""

    model: str
    stored: torch.dtype
    base_mode: str

    @property
    def bytes_per_weight(self) -> float:
        """What must be moved: in device memory, or, where the base is in host memory, from there."""
        if self.base_mode == "host":
            return 2.0
        base = 1 if self.base_mode == "low_byte" else 2
        # Previous bytes, and two masks, read and written.
        return self.stored.itemsize + base + 2 * 1 + 2 * 2 / 8

    @property
    def name(self) -> str:
        """Return the first cells of its line."""
        return f"| {self.model} | {str(self.stored).removeprefix('torch.')} | {self.base_mode} |"


@dataclass(frozen=True)
class Copied:
    """A copy: bytes, and seconds on the device."""

    moved: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.moved / self.seconds


@dataclass(frozen=True)
class Turn:
    """A copy, the seconds of an observation on the device, and how long the host was kept by it."""

    copy: Copied
    observation: float
    host: float


class Copies:
    """Copies that are compared with: within the device, and from host memory."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        size, in_host = (_BUFFER_BYTES, _HOST_BYTES) if self._on_gpu else (1 << 20, 1 << 20)
        self._buffers = [torch.empty(size, dtype=torch.uint8, device=device).random_() for _ in range(_BUFFERS)]
        self._host = torch.empty(in_host, dtype=torch.uint8, pin_memory=self._on_gpu).random_()
        self._next = 0

    def within(self) -> int:
        """Copy a buffer to another one; return the bytes read and written."""
        source, target = self._buffers[self._next], self._buffers[self._next + 1]
        self._next = (self._next + 2) % _BUFFERS
        target.copy_(source)
        return 2 * source.numel()

    def from_host(self) -> int:
        """Copy from pinned memory; return the bytes."""
        self._buffers[0][: self._host.numel()].copy_(self._host, non_blocking=True)
        return self._host.numel()

    def timed(self, copy: Callable[[], int]) -> Callable[[], Copied]:
        """Start a copy; what is returned tells of it once it is done."""
        if not self._on_gpu:
            started = time.perf_counter()
            done = Copied(copy(), time.perf_counter() - started)
            return lambda: done
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        moved = copy()
        end.record()
        return lambda: Copied(moved, begin.elapsed_time(end) / 1e3)

    def wait(self) -> None:
        """Wait for the device."""
        if self._on_gpu:
            torch.cuda.synchronize()


def rows(model: str, device: str, modes: Sequence[str], rounds: int) -> Iterator[str]:
    """Time one side after the other. With "cpu" as the device it is Triton's interpreter that measures."""
    for mode in modes:
        # As TRL keeps its weights, too.
        for stored in (torch.bfloat16, torch.float32) if mode == "device" else (torch.bfloat16,):
            side = Side(model, stored, mode)
            try:
                row = _row(side, device, rounds)
            except torch.OutOfMemoryError:
                row = f"{side.name} {side.bytes_per_weight:g} | does not fit into the GPU's memory | | | | | | |"
            yield row
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()


def _row(side: Side, device: str, rounds: int) -> str:
    weights = Weights(ARCHITECTURES[side.model], side.stored, device)
    free = free_bytes(torch.device("cpu"))
    # Twice, because torch rounds pinned memory up to a power of two.
    if side.base_mode == "host" and free is not None and free < 2 * 2 * weights.count:
        return f"{side.name} {side.bytes_per_weight:g} | does not fit into host memory | | | | | | |"
    observer = _observer(side, weights, device)
    weights.change()
    copies = Copies(device)
    turns = [_turn(observer, side, step, copies) for step in range(1, _WARM_UP + rounds + 1)][_WARM_UP:]
    if observer.base_mode != side.base_mode:
        raise RuntimeError(f"the base is kept as {observer.base_mode}, and not as {side.base_mode}")
    return _line(side, weights.count, turns)


def _observer(side: Side, weights: Weights, device: str) -> UpdateObserver:
    bind = _bind(side, device)
    if side.base_mode == "shared":
        return UpdateObserver(weights, base=weights.frozen(), bind=bind)
    # Chosen by free memory, it would be the host's on a GPU that holds little more than the weights.
    return UpdateObserver(weights, base_mode=side.base_mode, bind=bind)


def _turn(observer: UpdateObserver, side: Side, step: int, copies: Copies) -> Turn:
    if side.base_mode == "host":
        copy = copies.timed(copies.from_host)
        # What comes from host memory would begin to come while something else is timed.
        copies.wait()
    else:
        for _ in range(_AHEAD):
            copies.within()
        copy = copies.timed(copies.within)
    observer.start(step)
    observer.before_update()
    copies.wait()
    observation = observer.collect()[0]
    return Turn(copy(), observation.device_seconds, observation.host_seconds)


def _line(side: Side, weights: int, turns: Sequence[Turn]) -> str:
    moved = side.bytes_per_weight * weights
    times = [1e3 * turn.observation for turn in turns]
    shares = [moved / turn.observation / turn.copy.rate for turn in turns]
    copied = statistics.median(turn.copy.rate for turn in turns) / 1e9
    whence = " from host memory" if side.base_mode == "host" else ""
    cells = (
        f"{side.bytes_per_weight:g}",
        f"{statistics.median(times):.3f}",
        _quartiles(times),
        f"{1e3 * moved / statistics.median(times) / 1e9:.4g}",
        f"{copied:.4g}{whence}",
        f"{statistics.median(shares):.3f}",
        _quartiles(shares),
        f"{1e3 * statistics.median(turn.host for turn in turns):.3f}",
    )
    return f"{side.name} {' | '.join(cells)} |"


def _quartiles(values: Sequence[float]) -> str:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{low:.3f} to {high:.3f}"


def _bind(side: Side, device: str) -> Bind | None:
    """Return what binds the kernel for GPUs on the CPU, where the observer would choose another one."""
    if device != "cpu":
        return None
    return partial(StreamedBase, bind=_interpreted, chunk_bytes=1 << 16) if side.base_mode == "host" else _interpreted


def _interpreted(segments: Sequence[Segment], rules: Rules) -> Kernel:
    from monitor.observe.kernels.gpu import TritonKernel

    kernel = TritonKernel(segments, rules)

    def measure() -> Counts:
        # The interpreter computes with numpy, which warns of inf − inf.
        with np.errstate(all="ignore"):
            return kernel()

    return measure
