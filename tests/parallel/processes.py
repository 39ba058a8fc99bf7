"""Several processes that train together on the CPU, over gloo."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

GROUP_TIMEOUT = timedelta(seconds=60)


def run_together(
    function: Callable[..., Any], world: int, *arguments: Any, timeout: timedelta = GROUP_TIMEOUT
) -> list[Any]:
    """Run `function(*arguments)` in `world` processes with a default process group, and return what each returned.

    None for a process that ended without returning.
    """
    with tempfile.TemporaryDirectory() as directory:
        preload()
        multiprocessing.start_processes(
            _run, args=(world, directory, timeout, function, arguments), nprocs=world, start_method="forkserver"
        )
        results = [Path(directory) / f"result-{rank}" for rank in range(world)]
        return [torch.load(result, weights_only=False) if result.exists() else None for result in results]


def preload() -> None:
    """Let the server that forks the processes import the libraries, once: it takes longer than most tests."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        [
            "torch",
            "transformers",
            "accelerate",
            "pytest",
            "monitor.callback",
            "tests.parallel.models",
            "tests.ready",
        ]
    )


def _run(
    rank: int,
    world: int,
    directory: str,
    timeout: timedelta,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timeout)
    result = function(*arguments)
    torch.save(result, Path(directory) / f"result-{rank}")
    dist.destroy_process_group()
