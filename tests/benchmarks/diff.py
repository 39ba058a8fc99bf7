"""What `sparsity-monitor diff` costs: beside reading both files, beside the published method, and its memory.

    python -m tests.benchmarks.diff --gigabytes 4 --directory /tmp/diff-benchmark

It makes two checkpoints of that size, in shards, and removes them again. Sides take turns within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.benchmarks.shapes import CHANGED

_WIDTH, _TENSORS, _SHARDS = 4096, 4, 4
_READ_AT_ONCE = 8 << 20
_TOLERANCES = (1e-8, 1e-5, 1e-4)


def make(directory: Path, gigabytes: float, dtype: torch.dtype) -> tuple[Path, Path]:
    """Write a base and a fine-tuned checkpoint of random weights, a tenth of them changed."""
    generator = torch.Generator().manual_seed(0)
    rows = int(gigabytes * 1e9 / dtype.itemsize / _WIDTH / _TENSORS / _SHARDS)
    sides = base, tuned = directory / "base", directory / "tuned"
    where: dict[str, str] = {}
    for side in sides:
        side.mkdir(parents=True)
    for shard in range(_SHARDS):
        file = f"model-{shard + 1:05d}-of-{_SHARDS:05d}.safetensors"
        weights = {}
        for i in range(_TENSORS):
            name = f"model.layers.{shard * _TENSORS + i}.mlp.up_proj.weight"
            drawn = torch.empty(rows // 16 + 1, _WIDTH, dtype=dtype).normal_(0.0, 0.02, generator=generator)
            weights[name] = drawn.repeat(16, 1)[:rows].contiguous()
        where |= dict.fromkeys(weights, file)
        save_file(weights, base / file)
        # The same rows of factors again and again: they cost more to draw than to use.
        factors = torch.where(torch.rand(16, _WIDTH, generator=generator) < CHANGED, 1.01, 1.0).to(dtype)
        for tensor in weights.values():
            for i, row in enumerate(tensor):
                row.mul_(factors[i % len(factors)])
        save_file(weights, tuned / file)
    # With it, transformers is asked for the names, and is in memory.
    configuration = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": len(where)}
    for side in sides:
        (side / "config.json").write_text(json.dumps(configuration))
        (side / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return base, tuned


def _files(side: Path) -> list[Path]:
    return sorted(side.glob("*.safetensors"))


def read_sequentially(base: Path, tuned: Path) -> None:
    """Read both from beginning to end, into one buffer."""
    room = bytearray(_READ_AT_ONCE)
    for path in (*_files(base), *_files(tuned)):
        with path.open("rb", buffering=0) as file:
            while file.readinto(room):
                pass


def published_method(base: Path, tuned: Path) -> None:
    """Load both, concatenate all differences, count zeros and what is close to them (arXiv 2505.11711)."""
    before, after = ({n: t for path in _files(side) for n, t in load_file(path).items()} for side in (base, tuned))
    deltas = torch.cat([(after[name] - before[name]).view(-1) for name in before])
    (deltas == 0).sum()
    for tolerance in _TOLERANCES:
        torch.isclose(deltas, torch.zeros((), dtype=deltas.dtype), atol=tolerance).sum()


def forget(base: Path, tuned: Path) -> None:
    """Let the system drop the files from its memory, so that they are read from the disk."""
    for path in (*_files(base), *_files(tuned)):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def comparing(base: Path, tuned: Path, mask: Path | None) -> Callable[[], None]:
    """The comparison itself, without the start of a process and its imports."""
    from monitor.analysis.diff.counting import best_device
    from monitor.analysis.diff.run import difference
    from monitor.analysis.pairs import Pairs
    from monitor.observe.criterion import Criterion
    from monitor.observe.kernels.contract import Rules
    from monitor.observe.ranks import Alone

    rules = Rules(torch.bfloat16, Criterion(), _TOLERANCES)
    return lambda: (difference(Pairs.open(base, tuned), rules, Alone(), mask=mask, device=best_device(0)), None)[1]


def speeds(base: Path, tuned: Path, rounds: int, *, cold: bool, with_published: bool) -> list[tuple[str, float, float]]:
    """Return side, seconds, and seconds of the processors: the medians of the rounds."""
    sides: dict[str, Callable[[], None]] = {
        "reading both files sequentially": lambda: read_sequentially(base, tuned),
        "diff": comparing(base, tuned, None),
        "diff with a mask": comparing(base, tuned, base.parent / "mask.safetensors"),
    }
    if with_published:
        sides["published method"] = lambda: published_method(base, tuned)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    sides["diff with a mask"]()  # Compiles, and reads once.
    for _ in range(rounds):
        for name, run in sides.items():
            if cold:
                forget(base, tuned)
            started, worked = time.perf_counter(), time.process_time()
            run()
            took[name].append((time.perf_counter() - started, time.process_time() - worked))
    return [(name, *(statistics.median(times) for times in zip(*each, strict=True))) for name, each in took.items()]


# The most memory that a process has had since it was started, in kB; ru_maxrss has that of its parent in it.
_RUN = """
from pathlib import Path
from monitor.cli import main
try:
    main()
except SystemExit:
    pass
status = Path("/proc/self/status").read_text()
print(status.split("VmHWM:")[1].split()[0])
"""


def peak_memory(base: Path, tuned: Path) -> tuple[float, float]:
    """Return seconds and the most memory in bytes of the command itself, with mask and report."""
    outputs = ["--mask", str(base.parent / "m.safetensors"), "-o", str(base.parent / "r.html"), "--json"]
    started = time.perf_counter()
    command = [sys.executable, "-c", _RUN, "diff", str(base), str(tuned), *outputs]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - started, int(printed.splitlines()[-1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of each checkpoint")
    parser.add_argument("--directory", type=Path, default=Path("/tmp/diff-benchmark"))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--published", action="store_true", help="the published method, too: all is in memory thrice")
    options = parser.parse_args()
    try:
        base, tuned = make(options.directory, options.gigabytes, getattr(torch, options.dtype))
        seconds, peak = peak_memory(base, tuned)
        size = sum(path.stat().st_size for side in (base, tuned) for path in _files(side))
        print(f"{options.dtype}, {size / 1e9:.1f} GB of both, {os.cpu_count()} processors")
        print(f"\nthe command with mask and report: {seconds:.1f} s, at most {peak / 1e6:.0f} MB of memory\n")
        print("| files | side | s, median | GB/s | ÷ reading | processors, s |\n|---|---|---|---|---|---|")
        for cold in (True, False):
            found = speeds(base, tuned, options.rounds, cold=cold, with_published=options.published)
            for name, took, worked in found:
                files, pace, share = "on disk" if cold else "in the page cache", size / took / 1e9, found[0][1] / took
                print(f"| {files} | {name} | {took:.2f} | {pace:.2f} | {share:.2f} | {worked:.2f} |")
    finally:
        shutil.rmtree(options.directory, ignore_errors=True)


if __name__ == "__main__":
    main()
