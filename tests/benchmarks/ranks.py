"""How base memory and work fall with the number of processes that hold the same weights.

`python -m tests.benchmarks.ranks`: 34M replicated weights in bfloat16 on 1, 2 and 4 processes of one CPU. Work is
the processor time of one process, as the processes share the cores.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from monitor.observe.observer import UpdateObserver
from tests.parallel.processes import run_together

ROUNDS = 10


def observe() -> tuple[float, float, int]:
    """Return the processor seconds of one observation, the bytes held, and the weights of the model."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False, dtype=torch.bfloat16) for _ in range(8)))
    observer = UpdateObserver(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + (torch.rand_like(parameter) < 0.1) * 0.05)
    observer.observe(1)
    started = time.process_time()
    for step in range(2, 2 + ROUNDS):
        observer.observe(step)
    seconds = (time.process_time() - started) / ROUNDS
    return seconds, observer.monitor_bytes, sum(p.numel() for p in model.parameters())


def main() -> None:
    print("| processes | ns per weight of the model, each | share | bytes per weight of the model, each | share |")
    print("|---|---|---|---|---|")
    alone: tuple[float, float] | None = None
    for world in (1, 2, 4):
        results = run_together(observe, world)
        seconds = max(result[0] for result in results) / results[0][2] * 1e9
        held = max(result[1] for result in results) / results[0][2]
        alone = alone or (seconds, held)
        print(f"| {world} | {seconds:.3f} | {seconds / alone[0]:.2f} | {held:.3f} | {held / alone[1]:.2f} |")


if __name__ == "__main__":
    main()
