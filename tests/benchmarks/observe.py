"""How long one observation takes, and how many bytes per weight are held.

    python -m tests.benchmarks.observe --device cpu --model 0.5B
    python -m tests.benchmarks.observe --device cuda --model 7B
    python -m tests.benchmarks.observe --memory

Work on other things changes a machine from minute to minute: on a CPU, each side takes turns with the monitor and with
a bare comparison of the same arrays, and is compared with what these took meanwhile.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import torch

from monitor.observe.kernels import kernel_for, numpy_loops
from monitor.observe.kernels.contract import Kernel, Rules, Segment
from monitor.observe.kernels.cpu import CpuKernel
from monitor.observe.observer import UpdateObserver
from tests.benchmarks import methods
from tests.benchmarks.shapes import ARCHITECTURES, Weights


@dataclass
class Side:
    """Something that is timed, in turns with the bare comparison and the monitor. Times are in ns per weight."""

    name: str
    times: list[float]
    bare: list[float]
    monitor: list[float]

    def row(self) -> str:
        """Return the line of a table: what it took, and how many times as long as the other two meanwhile."""
        own, bare, monitor = (statistics.median(times) for times in (self.times, self.bare, self.monitor))
        return f"| {self.name} | {own:.3f} | {min(self.times):.3f} | {own / bare:.2f} | {own / monitor:.2f} |"


HEADER = "| side | ns per weight, median | fastest | × bare comparison | × monitor |\n|---|---|---|---|---|"


class Observing:
    """Calls an observer at one step after the other."""

    def __init__(self, observer: UpdateObserver) -> None:
        self.observer = observer
        self.step = 0

    def __call__(self) -> None:
        self.step += 1
        self.observer.observe(self.step)


class Bound:
    """Binds as an observer does by itself, and keeps what it bound last."""

    segments: Sequence[Segment]
    kernel: Kernel

    def __call__(self, segments: Sequence[Segment], rules: Rules) -> Kernel:
        self.segments, self.kernel = segments, kernel_for(segments, rules)
        return self.kernel


def cpu_sides(model_name: str, layers: int | None, rounds: int) -> Iterator[Side]:
    """Time one side after the other, of weights in host memory; nothing is held that the next one does not need."""
    weights = Weights(ARCHITECTURES[model_name], torch.bfloat16, "cpu", layers)
    bound = Bound()
    # It takes its copy of the base before the weights change.
    monitor = Observing(UpdateObserver(weights, bind=bound))
    # All sides compare with that copy: another one would not fit where one layer of the 7B model just does.
    before = [segment.base.view(segment.current.shape) for segment in bound.segments]
    now = [segment.current for segment in bound.segments]
    weights.change()
    bare = partial(methods.bare_comparison, now, before)

    def timed(name: str, run: Callable[[], object]) -> Side:
        side = Side(name, [], [], [])
        # The first round warms up.
        for number in range(rounds + 1):
            for work, times in ((bare, side.bare), (monitor, side.monitor), (run, side.times)):
                started = time.perf_counter()
                work()
                if number:
                    times.append(1e9 * (time.perf_counter() - started) / weights.count)
        return side

    first = timed("monitor again", monitor)
    yield Side("bare comparison: `np.packbits(a != b)`, 1 thread", first.bare, first.bare, first.monitor)
    yield Side("monitor, bfloat16, all defaults, 2 threads", first.monitor, first.bare, first.monitor)
    for full, kept in ((False, "bfloat16"), (True, "float32")):
        masters = Weights(ARCHITECTURES[model_name], torch.float32, "cpu", layers, full=full)
        observing = Observing(UpdateObserver(masters))
        masters.change()
        yield timed(f"monitor, float32 masters, {kept} base", observing)
        del observing, masters
    base = shared(weights, before)
    in_numpy = Observing(UpdateObserver(weights, base=base, bind=partial(CpuKernel, loops=numpy_loops)))
    yield timed("monitor without numba", in_numpy)
    del in_numpy
    yield timed("subtract, concatenate, `isclose`", partial(methods.subtract_and_concatenate, now, before))
    snapshot = [tensor.float() for tensor in before]
    yield timed("clone to float32, six thresholds", partial(methods.clone_to_float32, now, snapshot))


def shared(weights: Weights, before: list[torch.Tensor]) -> torch.nn.Module:
    """Return the weights as they were as a model, which an observer uses where it is."""
    base = torch.nn.Module()
    for (name, _), tensor in zip(weights.named_parameters(), before, strict=True):
        base.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
    return base


def gpu_rows(model_name: str, rounds: int) -> str:
    """Return the share of the copy bandwidth that the pass reaches."""
    weights = Weights(ARCHITECTURES[model_name], torch.bfloat16, "cuda")
    # Chosen by free memory, it would be the host's on a GPU that holds little more than the weights.
    bound = Bound()
    UpdateObserver(weights, base_mode="device", bind=bound)
    weights.change()
    room = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(room)
    times: dict[str, list[float]] = {"copy": [], "pass": []}
    for _ in range(rounds + 3):
        for name, work in (("copy", lambda: target.copy_(room)), ("pass", bound.kernel)):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end) / 1e3)
    copy = 2 * room.numel() / statistics.median(times["copy"][3:])
    # Current and base; previous bytes and two masks, read and written.
    moved = weights.count * (2 + 2 + 2 * 1 + 4 / 8)
    measured = moved / statistics.median(times["pass"][3:])
    return (
        "| side | GB/s | share of the copy |\n|---|---|---|\n"
        f"| device-to-device copy | {copy / 1e9:.0f} | 1 |\n"
        f"| monitor, bfloat16, all defaults | {measured / 1e9:.0f} | {measured / copy:.2f} |"
    )


def memory_rows(model_name: str, device: str, layers: int | None) -> str:
    """Return the bytes per weight that each mode holds, as the system or the allocator sees them."""
    lines = [
        "| weights | base | step masks | bytes per weight, measured | as the observer says |",
        "|---|---|---|---|---|",
    ]
    for dtype in ("bfloat16", "float32"):
        for mode in ("device", "host", "low_byte", "shared"):
            for steps in (True, False):
                # Each in a process of its own: one that freed memory before takes it from there.
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    work = pool.submit(bytes_per_weight, model_name, device, layers, dtype, mode, steps)
                    taken, said = work.result()
                lines.append(f"| {dtype} | {mode} | {'on' if steps else 'off'} | {taken:.2f} | {said:.2f} |")
    return "\n".join(lines)


def bytes_per_weight(
    model_name: str, device: str, layers: int | None, dtype: str, mode: str, steps: bool
) -> tuple[float, float]:
    """Return what an observer holds, as measured and as it says."""
    weights = Weights(ARCHITECTURES[model_name], getattr(torch, dtype), device, layers)
    # A model that is there anyway, as the reference model of a training is.
    base = copy.deepcopy(weights) if mode == "shared" else None
    chosen = {"base_mode": mode} if base is None else {}
    # What the kernel and its compiler hold does not grow with the weights.
    small = torch.nn.Linear(32, 32, dtype=torch.bfloat16, device=device).to(getattr(torch, dtype))
    UpdateObserver(small, **chosen).observe(1)
    before = held(device)
    observer = UpdateObserver(weights, base=base, step_masks=steps, **chosen)
    if observer.observe(1).base_mode != mode:
        raise RuntimeError(f"the base is kept as {observer.base_mode}, and not as {mode}")
    return (held(device) - before) / weights.count, observer.monitor_bytes / weights.count


def held(device: str) -> int:
    """Return the bytes that this process holds on a device, and in host memory if that is another one."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident + (torch.cuda.memory_allocated() if device == "cuda" else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=list(ARCHITECTURES), default="0.5B")
    parser.add_argument("--layers", type=int, help="measure this many layers only, where memory does not hold all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="the bytes per weight only")
    arguments = parser.parse_args()
    if arguments.memory:
        print(memory_rows(arguments.model, arguments.device, arguments.layers))
        return
    if arguments.device == "cuda":
        print(gpu_rows(arguments.model, arguments.rounds))
    else:
        print(HEADER, flush=True)
        for side in cpu_sides(arguments.model, arguments.layers, arguments.rounds):
            print(side.row(), flush=True)


if __name__ == "__main__":
    main()
