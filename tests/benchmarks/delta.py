"""What a delta takes at each density, beside what simpler ways take, and how fast it is made and applied.

    python -m tests.benchmarks.delta --model 0.5B

Nine tenths of the weights that change move by one representable step, the others by two to eight: rounding to bfloat16
leaves little else of small updates. Which ones is random, and that cannot be compressed; what training changes has
patterns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import zstandard
from safetensors.torch import load_file, save_file

from monitor.analysis.delta.ahead import worker_threads
from monitor.analysis.delta.apply import apply_delta, check_base
from monitor.analysis.delta.container import DeltaFile
from monitor.analysis.delta.figures import figures_of
from monitor.analysis.delta.make import make_delta
from monitor.analysis.delta.sides import Checkpoint
from tests.benchmarks.shapes import ARCHITECTURES, Weights

DENSITIES = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.3, 0.6, 1.0)

COLUMNS = (
    "changed",
    "least uncompressed, MB",
    "zstd of the difference, MB",
    "delta, MB",
    "bits per change",
    "dense ÷ delta",
    *(f"{what}, {unit}" for unit in ("GB/s", "processor s/GB") for what in ("make", "apply", "copy")),
)


def write_base(directory: Path, model: str, layers: int | None) -> Path:
    weights = Weights(ARCHITECTURES[model], torch.bfloat16, "cpu", layers)
    directory.mkdir()
    save_file(dict(weights.named_parameters()), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def write_finetuned(base: Path, directory: Path, density: float) -> tuple[Path, int]:
    """Write weights that differ on this share, and return what zstandard makes of the differences as they are."""
    generator = np.random.default_rng(0)
    tensors = load_file(base / "model.safetensors")
    compressed = 0
    for tensor in tensors.values():
        bits = tensor.view(torch.int16).view(-1).numpy()
        chosen = np.flatnonzero(generator.random(len(bits), dtype=np.float32) < density)
        steps = np.where(generator.random(len(chosen)) < 0.9, 1, generator.integers(2, 9, len(chosen)))
        moves = np.zeros_like(bits)
        moves[chosen] = steps * generator.choice([-1, 1], len(chosen))
        bits += moves
        compressed += len(zstandard.ZstdCompressor(level=3).compress(moves.tobytes()))
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory, compressed


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return how long something takes, and how long processors work on it."""
    began, worked = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - worked


def copy(source: Path, target: Path) -> None:
    """Copy a file as `apply` writes one: it is on the disk at the end."""
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def apply(base: Path, file: Path, target: Path) -> None:
    delta, checkpoint = DeltaFile(file), Checkpoint.open(str(base))
    delta.check_frames()
    with worker_threads() as pool:
        check_base(checkpoint, delta, pool, lambda _: None)
        apply_delta(checkpoint, delta, target, pool, lambda _: None)


def row(base: Path, place: Path, density: float) -> str:
    finetuned, difference = write_finetuned(base, place / "finetuned", density)
    sides = Checkpoint.open(str(base)), Checkpoint.open(str(finetuned))
    file = place / "it.delta"
    times = [
        seconds(lambda: make_delta(*sides, file, lambda _: None)),
        seconds(lambda: apply(base, file, place / "again")),
        seconds(lambda: copy(finetuned / "model.safetensors", place / "copy")),
    ]
    figures = figures_of(DeltaFile(file).manifest, file.stat().st_size)
    for path in (finetuned, place / "again"):
        shutil.rmtree(path)
    sizes = [f"{size / 1e6:.2f}" for size in (figures.least_bytes, difference, figures.delta_bytes)]
    bits = f"{8 * figures.delta_bytes / figures.changed:.2f}"
    gigabytes = figures.dense_bytes / 1e9
    speeds = [f"{gigabytes / taken:.2f}" for taken, _ in times]
    work = [f"{worked / gigabytes:.2f}" for _, worked in times]
    return line([f"{figures.density:.2%}", *sizes, bits, f"{figures.ratio:,.1f}", *speeds, *work])


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=ARCHITECTURES, default="0.5B", help="whose shapes")
    parser.add_argument("--layers", type=int, help="of it")
    parser.add_argument("--density", type=float, nargs="*", default=DENSITIES)
    parser.add_argument("--place", type=Path, help="directory to write to; three times the weights are needed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.place) as name:
        place = Path(name)
        base = write_base(place / "base", arguments.model, arguments.layers)
        print(f"dense: {(base / 'model.safetensors').stat().st_size / 1e6:.1f} MB", flush=True)
        print(line(COLUMNS), line(["---"] * len(COLUMNS)), sep="\n", flush=True)
        for density in arguments.density:
            print(row(base, place, density), flush=True)


if __name__ == "__main__":
    main()
