"""The files of weights that applying a delta writes: those of the fine-tuned checkpoint, byte for byte where possible.

A safetensors file keeps its name, its header and the order of its tensors. What torch.save wrote becomes safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from monitor.analysis.delta.carried import content_of
from monitor.analysis.delta.spans import size_of
from monitor.analysis.files import CheckpointFiles
from monitor.analysis.formats import DTYPES
from monitor.analysis.stored import OpenFile, StoredTensor
from monitor.errors import DeltaError

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype_name(name: str, tensor: StoredTensor) -> str:
    """Return what safetensors calls the dtype of a tensor.

    Raises:
        DeltaError: it has no name for it.
    """
    if tensor.dtype not in _NAMES:
        raise DeltaError(
            f"{name} in {str(tensor.file.path)!r} is stored as {tensor.dtype}, for which safetensors has no name here; "
            f"expected one of {', '.join(_NAMES.values())}. Convert it, and save the checkpoint again."
        )
    return _NAMES[tensor.dtype]


@dataclass(frozen=True)
class PlannedShard:
    """A safetensors file to be described.

    Attributes:
        path: its name.
        was: the name of the file that the tensors are in now.
        header: its first bytes, up to the first tensor.
        tensors: name → tensor, in the order of the file.
        kept: whether it becomes byte for byte the file that there is.
    """

    path: str
    was: str
    header: bytes
    tensors: dict[str, StoredTensor]
    kept: bool


@dataclass(frozen=True)
class Layout:
    """The files of weights.

    Attributes:
        shards: in the order of the checkpoint.
        index: model.safetensors.index.json; None where one file has all.
    """

    shards: tuple[PlannedShard, ...]
    index: bytes | None


def layout_of(finetuned: CheckpointFiles, directory: Path | None) -> Layout:
    """Return the files that a checkpoint is to be written to.

    Args:
        finetuned: the checkpoint.
        directory: where it is; None where a single file was given.

    Raises:
        CheckpointError: a file cannot be read.
        DeltaError: a dtype has no name in safetensors.
    """
    files: dict[Path, dict[str, StoredTensor]] = {}
    for name, tensor in finetuned.tensors.items():
        files.setdefault(tensor.file.path, {})[name] = tensor
    shards = tuple(_kept(path, tensors) or _made(path, tensors) for path, tensors in files.items())
    renamed = any(shard.path != shard.was for shard in shards)
    if directory is None or [shard.path for shard in shards] == [_SINGLE]:
        return Layout(shards, None)
    there = directory / INDEX
    return Layout(shards, _index(shards) if renamed or not there.is_file() else content_of(there))


def _kept(path: Path, tensors: dict[str, StoredTensor]) -> PlannedShard | None:
    """Return a safetensors file as it is; None if it is none, or has something that the checkpoint does not use."""
    if path.suffix != ".safetensors":
        return None
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].count)))
    file = next(iter(tensors.values())).file
    length = int.from_bytes(_first_bytes(file, 8), "little")
    header = _first_bytes(file, 8 + length)
    end = len(header)
    for tensor in ordered.values():
        if tensor.start != end:
            return None
        end += size_of(tensor)
    return PlannedShard(path.name, path.name, header, ordered, kept=True) if end == file.size else None


def _first_bytes(file: OpenFile, count: int) -> bytes:
    found = torch.empty(count, dtype=torch.uint8, device="cpu")
    file.read_into(found, 0)
    return found.numpy().tobytes()


def _made(path: Path, tensors: dict[str, StoredTensor]) -> PlannedShard:
    # The order in which the library writes: the widest values first, so that all are aligned.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    name = path.stem.replace("pytorch_model", "model") + ".safetensors"
    return PlannedShard(name, path.name, _header(ordered), ordered, kept=False)


def _header(tensors: dict[str, StoredTensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        end = start + size_of(tensor)
        header[name] = {"dtype": dtype_name(name, tensor), "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _index(shards: Iterable[PlannedShard]) -> bytes:
    total = sum(size_of(tensor) for shard in shards for tensor in shard.tensors.values())
    where = {name: shard.path for shard in shards for name in shard.tensors}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()
