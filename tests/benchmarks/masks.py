"""How long the commands about mask files take, and how much memory.

`python -m tests.benchmarks.masks --model 0.5B`: three random masks of the shapes of Qwen2.5, a quarter of the weights
in each. Each command is a process of its own; `mask info` of a mask of one weight is what that takes to start.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from monitor.observe.bits import word_count
from monitor.observe.masks.file import MaskMetadata, write_mask
from tests.benchmarks.shapes import ARCHITECTURES, parameter_shapes

_COMMANDS = {
    "start-up: info, 1 weight": "info one.safetensors",
    "info": "info a.safetensors",
    "overlap of 2": "overlap a.safetensors b.safetensors",
    "overlap of 3": "overlap a.safetensors b.safetensors c.safetensors",
    "overlap of 2, --random-control": "overlap a.safetensors b.safetensors --random-control",
    "union of 2": "union a.safetensors b.safetensors -o made.safetensors",
    "consensus, 2 of 3": "consensus a.safetensors b.safetensors c.safetensors --at-least 2 -o made.safetensors",
    "convert to safetensors": "convert a.safetensors booleans.safetensors",
    "convert from safetensors": "convert booleans.safetensors made.safetensors",
    "convert to npz": "convert a.safetensors booleans.npz",
    "convert from npz": "convert booleans.npz made.safetensors",
    "convert to pt": "convert a.safetensors booleans.pt",
    "convert from pt": "convert booleans.pt made.safetensors",
}


def random_words(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Iterator[torch.Tensor]:
    """Words of which a quarter of the bits are set, but those that are not used."""
    generator = torch.Generator().manual_seed(seed)
    for shape in shapes.values():
        weights = math.prod(shape)
        numbers = torch.randint(-(1 << 31), 1 << 31, (2, word_count(weights)), generator=generator)
        words = (numbers[0] & numbers[1]).to(torch.int32)
        if used := weights % 32:
            words[-1] &= (1 << used) - 1
        yield words


# The largest memory of a process that `wait` reports is at least that of the one that has started it.
_SCRIPT = """
import atexit, pathlib, sys
from monitor.cli import main
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(status.read_text().split("VmHWM:")[1].split()[0], file=sys.stderr))
main()
"""


def run(directory: Path, command: str) -> tuple[float, float, float]:
    """Return the seconds that a command takes, those of a processor, and its largest memory in MB."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    arguments = [sys.executable, "-c", _SCRIPT, "mask", *command.split()]
    done = subprocess.run(arguments, cwd=directory, capture_output=True, text=True, check=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, processor, int(done.stderr.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=ARCHITECTURES, default="0.5B")
    shapes = dict(parameter_shapes(ARCHITECTURES[parser.parse_args().model]))
    metadata = vars(MaskMetadata("bits", "bfloat16"))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for seed, each in enumerate("abc"):
            write_mask(directory / f"{each}.safetensors", random_words(shapes, seed), shapes, metadata)
        write_mask(directory / "one.safetensors", [torch.ones(1, dtype=torch.int32)], {"w": (1,)}, metadata)
        print(f"{sum(map(math.prod, shapes.values())):,} weights, the largest parameter has", end=" ")
        print(f"{max(map(math.prod, shapes.values())):,}\n")
        print("| mask … | seconds | of a processor | MB |\n|---|---|---|---|")
        for label, command in _COMMANDS.items():
            seconds, processor, megabytes = run(directory, command)
            print(f"| {label} | {seconds:.1f} | {processor:.1f} | {megabytes:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
