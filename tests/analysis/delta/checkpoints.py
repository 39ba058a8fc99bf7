"""Checkpoints on disk for deltas, and the way from two of them to a third."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from monitor.analysis.delta.ahead import worker_threads
from monitor.analysis.delta.apply import apply_delta, check_base, check_target
from monitor.analysis.delta.container import DeltaFile
from monitor.analysis.delta.make import make_delta
from monitor.analysis.delta.manifest import Manifest
from monitor.analysis.delta.sides import Checkpoint
from monitor.analysis.files import CheckpointFiles

Weights = dict[str, torch.Tensor]

DTYPES = (
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


def from_bytes(raw: bytes, dtype: torch.dtype, shape: tuple[int, ...] = (-1,)) -> torch.Tensor:
    """A tensor of these bits; a bool takes the lowest one of each byte."""
    array = np.frombuffer(raw, np.uint8).copy()
    if dtype == torch.bool:
        array &= 1
    return torch.frombuffer(array, dtype=dtype).reshape(shape) if raw else torch.empty(0, dtype=dtype).reshape(shape)


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def save(directory: Path, *shards: Weights) -> Path:
    """Write weights as transformers does: one file, or shards with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    if len(shards) == 1:
        save_file(shards[0], directory / "model.safetensors", metadata={"format": "pt"})
    else:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
        for name, shard in zip(names, shards, strict=True):
            save_file(shard, directory / name, metadata={"format": "pt"})
        where = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": 0}, "weight_map": where}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text('{"model_type": "qwen2"}')
    return directory


def weights(seed: int = 0, rows: int = 30) -> Weights:
    """Two matrices and a vector in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (rows, 8), "layer.weight": (16, 24), "norm.weight": (8,)}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def moved(tensors: Weights, density: float = 0.1, seed: int = 1) -> Weights:
    """The same weights, of which about this share is one representable step away."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (tensor.view(torch.int16) + (torch.rand(tensor.shape, generator=generator) < density)).view(
            torch.bfloat16
        )
        for name, tensor in tensors.items()
    }


def make(base: Path, finetuned: Path, target: Path) -> Manifest:
    sides = Checkpoint.open(str(base)), Checkpoint.open(str(finetuned))
    return make_delta(*sides, target, lambda _: None)


def apply(base: Path, file: Path, target: Path) -> Path:
    """What the command does, without its words."""
    delta, checkpoint = DeltaFile(file), Checkpoint.open(str(base))
    check_target(delta, target)
    delta.check_frames()
    with worker_threads() as pool:
        check_base(checkpoint, delta, pool, lambda _: None)
        apply_delta(checkpoint, delta, target, pool, lambda _: None)
    return target


def there_and_back(base: Path, finetuned: Path, place: Path) -> Manifest:
    """Make a delta, apply it, and compare each tensor, and each file of weights that can be the same."""
    manifest = make(base, finetuned, place / "it.delta")
    apply(base, place / "it.delta", place / "again")
    wanted, found = CheckpointFiles.open(finetuned), CheckpointFiles.open(place / "again")
    assert set(found.names) == set(wanted.names)
    for name in wanted.names:
        assert (found.shapes[name], found.dtypes[name]) == (wanted.shapes[name], wanted.dtypes[name]), name
        assert tensor_bytes(found.read(name)) == tensor_bytes(wanted.read(name)), name
    for path in finetuned.glob("*.safetensors"):
        assert (place / "again" / path.name).read_bytes() == path.read_bytes(), path.name
    return manifest
