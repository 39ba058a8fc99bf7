"""How long one observation takes, and how many bytes per weight are held.

    python -m tests.benchmarks.observe --device cpu --model 0.5B
    python -m tests.benchmarks.observe --device cuda --model 7B
    python -m tests.benchmarks.observe --memory

Work on other things changes a machine from minute to minute: on a CPU, each side takes turns with the monitor and with
a bare comparison of the same arrays, and is compared with what these took meanwhile.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any

import torch

from monitor.observe.kernels import kernel_for, numpy_loops
from monitor.observe.kernels.contract import Kernel, Rules, Segment
from monitor.observe.kernels.cpu import CpuKernel
from monitor.observe.observer import UpdateObserver
from tests.benchmarks import gpu_sides, methods
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
    """Binds as an observer does by itself, and keeps what it was bound to last."""

    segments: Sequence[Segment]

    def __call__(self, segments: Sequence[Segment], rules: Rules) -> Kernel:
        self.segments = segments
        return kernel_for(segments, rules)


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


def memory_rows(model_name: str, device: str, layers: int | None) -> Iterator[str]:
    """Return the bytes per weight that each mode holds, as the system or the allocator sees them."""
    measured = (
        "bytes per weight, measured" if device == "cpu" else "bytes per weight on the GPU | pinned in host memory"
    )
    yield f"| weights | base | step masks | {measured} | as the observer says |"
    yield "|---|---|---|---|---|" if device == "cpu" else "|---|---|---|---|---|---|"
    chosen = list(product(("bfloat16", "float32"), ("device", "host", "low_byte", "shared"), (True, False)))
    measure = partial(in_a_process_of_its_own, model_name, device, layers)
    # A GPU has room for two of them.
    with ThreadPoolExecutor(2 if device == "cuda" else 1) as pool:
        for (dtype, mode, steps), taken in zip(chosen, pool.map(measure, *zip(*chosen, strict=True)), strict=True):
            cells = " | ".join(f"{size:.2f}" for size in taken)
            yield f"| {dtype} | {mode} | {'on' if steps else 'off'} | {cells} |"


def in_a_process_of_its_own(*arguments: Any) -> tuple[float, ...]:
    """Call bytes_per_weight where nothing was freed before: what was is taken from there, and not seen."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(bytes_per_weight, *arguments).result()


def bytes_per_weight(
    model_name: str, device: str, layers: int | None, dtype: str, mode: str, steps: bool
) -> tuple[float, ...]:
    """Return what an observer holds, as measured, on a GPU and in host memory apart, and as it says."""
    weights = Weights(ARCHITECTURES[model_name], getattr(torch, dtype), device, layers)
    # A model that is there anyway, as the reference model of a training is.
    base = weights.frozen() if mode == "shared" else None
    chosen = {"base_mode": mode} if base is None else {}
    # What the kernel and its compiler hold does not grow with the weights.
    small = torch.nn.Linear(32, 32, dtype=torch.bfloat16, device=device).to(getattr(torch, dtype))
    UpdateObserver(small, **chosen).observe(1)
    before = held(device)
    observer = UpdateObserver(weights, base=base, step_masks=steps, **chosen)
    if observer.observe(1).base_mode != mode:
        raise RuntimeError(f"the base is kept as {observer.base_mode}, and not as {mode}")
    taken = (now - then for now, then in zip(held(device), before, strict=True))
    return (*(size / weights.count for size in taken), observer.monitor_bytes / weights.count)


def held(device: str) -> tuple[int, ...]:
    """Return the bytes that this process holds: resident in host memory, or on a GPU and pinned in host memory."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), torch.cuda.host_memory_stats().get("active_bytes.current", 0)
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return (int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda", "interpreter"], default="cpu")
    parser.add_argument("--model", choices=list(ARCHITECTURES), default="0.5B")
    parser.add_argument("--layers", type=int, help="measure this many layers only, where memory does not hold all")
    parser.add_argument("--base", choices=gpu_sides.BASE_MODES, help="on a GPU: this way to keep the base only")
    parser.add_argument("--rounds", type=int, help="by default 5, on a GPU 20")
    parser.add_argument("--memory", action="store_true", help="the bytes per weight only")
    arguments = parser.parse_args()
    for line in lines(arguments):
        print(line, flush=True)


def lines(arguments: argparse.Namespace) -> Iterator[str]:
    """Return the lines of the table that is asked for, as they come."""
    if arguments.memory:
        yield from memory_rows(arguments.model, arguments.device, arguments.layers)
    elif arguments.device == "cpu":
        yield HEADER
        for side in cpu_sides(arguments.model, arguments.layers, arguments.rounds or 5):
            yield side.row()
    else:
        device = "cuda" if arguments.device == "cuda" else "cpu"
        modes = [arguments.base] if arguments.base else gpu_sides.BASE_MODES
        yield gpu_sides.HEADER
        yield from gpu_sides.rows(arguments.model, device, modes, arguments.rounds or 20)


if __name__ == "__main__":
    main()
