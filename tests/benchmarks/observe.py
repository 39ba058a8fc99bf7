"""How long one observation takes, and how many bytes per weight are held.

    python -m tests.benchmarks.observe --device cpu --model 0.5B
    python -m tests.benchmarks.observe --device cuda --model 7B
    python -m tests.benchmarks.observe --memory

All sides are timed in turn within one run, since other work on a machine changes from minute to minute.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from monitor.observe.kernels import numpy_loops
from monitor.observe.kernels.cpu import CpuKernel
from monitor.observe.observer import UpdateObserver
from tests.benchmarks import methods
from tests.benchmarks.shapes import ARCHITECTURES, Weights


@dataclass
class Side:
    """Something that is timed."""

    name: str
    run: Callable[[], object]
    weights: int
    seconds: list[float]
    every: int = 1


def in_turn(sides: list[Side], rounds: int) -> None:
    """Run each side `rounds` times, in turn; the slow ones less often."""
    for i in range(rounds):
        for side in sides:
            if i % side.every:
                continue
            started = time.perf_counter()
            side.run()
            side.seconds.append(time.perf_counter() - started)


def table(sides: list[Side], against: Side) -> str:
    """Return times per weight, and the ratio to `against`, round by round."""
    lines = ["| side | ns per weight, median | fastest | × bare comparison |", "|---|---|---|---|"]
    for side in sides:
        per_weight = [1e9 * seconds / side.weights for seconds in side.seconds]
        reference = [1e9 * seconds / against.weights for seconds in against.seconds]
        ratio = statistics.median(per_weight) / statistics.median(reference)
        median, fastest = statistics.median(per_weight), min(per_weight)
        lines.append(f"| {side.name} | {median:.3f} | {fastest:.3f} | {ratio:.2f} |")
    return "\n".join(lines)


class Observing:
    """Calls an observer at one step after the other."""

    def __init__(self, observer: UpdateObserver) -> None:
        self.observer = observer
        self.step = 0

    def __call__(self) -> None:
        self.step += 1
        self.observer.observe(self.step)


def cpu_sides(model_name: str, layers: int | None, short: bool) -> list[Side]:
    """Return the sides for weights in host memory."""
    weights = Weights(ARCHITECTURES[model_name], torch.bfloat16, "cpu", layers)
    before = [parameter.detach().clone() for parameter in weights.parameters()]
    observer = UpdateObserver(weights)
    weights.change()
    now = [parameter.detach() for parameter in weights.parameters()]
    chunked = UpdateObserver(weights, base=dict(zip(dict(weights.named_parameters()), before, strict=True)))
    chunked._kernel = CpuKernel(numpy_loops)
    n = weights.count
    sides = [
        Side("bare comparison: `np.packbits(a != b)`, 1 thread", lambda: methods.bare_comparison(now, before), n, []),
        Side("monitor, bfloat16, all defaults, 2 threads", Observing(observer), n, []),
        Side("monitor without numba", Observing(chunked), n, [], 4),
    ]
    if short:
        return sides
    before32 = [tensor.float() for tensor in before]
    return [
        *sides,
        Side("subtract, concatenate, `isclose`", lambda: methods.subtract_and_concatenate(now, before), n, [], 4),
        Side("clone to float32, six thresholds", lambda: methods.clone_to_float32(now, before32), n, [], 4),
    ]


def float32_sides(model_name: str, layers: int | None) -> list[Side]:
    """Return the sides for float32 master weights, with a base of two bytes, and of four."""
    sides = []
    for full, base in ((False, "bfloat16"), (True, "float32")):
        weights = Weights(ARCHITECTURES[model_name], torch.float32, "cpu", layers, full=full)
        observer = UpdateObserver(weights)
        weights.change()
        sides.append(Side(f"monitor, float32 masters, {base} base", Observing(observer), weights.count, []))
    return sides


def gpu_rows(model_name: str, rounds: int) -> str:
    """Return the share of the copy bandwidth that the pass reaches."""
    weights = Weights(ARCHITECTURES[model_name], torch.bfloat16, "cuda")
    observing = Observing(UpdateObserver(weights))
    weights.change()
    room = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(room)
    segments, kernel, rules = observing.observer._segments, observing.observer._kernel, observing.observer.rules
    times: dict[str, list[float]] = {"copy": [], "pass": []}
    for _ in range(rounds + 3):
        for name, work in (("copy", lambda: target.copy_(room)), ("pass", lambda: kernel(segments, rules))):
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
    lines = ["| mode | bytes per weight, measured | as the observer says |", "|---|---|---|"]
    modes = [(mode, steps) for mode in ("device", "low_byte") for steps in (True, False)]
    for dtype in ("bfloat16", "float32"):
        for mode, steps in modes:
            # Each in a process of its own: one that freed memory before takes it from there.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                taken, said = pool.submit(bytes_per_weight, model_name, device, layers, dtype, mode, steps).result()
            name = f"{dtype}, base {mode}, step masks {'on' if steps else 'off'}"
            lines.append(f"| {name} | {taken:.2f} | {said:.2f} |")
    return "\n".join(lines)


def bytes_per_weight(
    model_name: str, device: str, layers: int | None, dtype: str, mode: str, steps: bool
) -> tuple[float, float]:
    """Return what an observer holds, as measured and as it says."""
    weights = Weights(ARCHITECTURES[model_name], getattr(torch, dtype), device, layers)
    # What the kernel and its compiler hold does not grow with the weights.
    UpdateObserver(torch.nn.Linear(32, 32, dtype=getattr(torch, dtype), device=device), base_mode=mode).observe(1)
    before = held(device)
    observer = UpdateObserver(weights, base_mode=mode, step_masks=steps)
    observer.observe(1)
    return (held(device) - before) / weights.count, observer.monitor_bytes / weights.count


def held(device: str) -> int:
    """Return the bytes that this process holds on a device."""
    gc.collect()
    if device == "cuda":
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=list(ARCHITECTURES), default="0.5B")
    parser.add_argument("--layers", type=int, help="measure this many layers only, where memory does not hold all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="the monitor on bfloat16 only: less time, less memory")
    parser.add_argument("--memory", action="store_true", help="the bytes per weight only")
    arguments = parser.parse_args()
    if arguments.memory:
        print(memory_rows(arguments.model, arguments.device, arguments.layers))
        return
    # The methods of others use torch's threads, as many as there are processors.
    if arguments.device == "cuda":
        print(gpu_rows(arguments.model, arguments.rounds), end="\n\n")
    else:
        sides = cpu_sides(arguments.model, arguments.layers, arguments.short)
        in_turn(sides, arguments.rounds)
        print(table(sides, sides[0]), end="\n\n", flush=True)
        if arguments.short:
            return
        bare = Side(sides[0].name, sides[0].run, sides[0].weights, [])
        defaults = Side(sides[1].name, sides[1].run, sides[1].weights, [])
        masters = [bare, defaults, *float32_sides(arguments.model, arguments.layers)]
        in_turn(masters, arguments.rounds)
        print(table(masters, masters[0]), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
