"""The two formats that checkpoints come in: safetensors, and what `torch.save` wrote. Only headers are read here."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch

from monitor.analysis.stored import OpenFile, StoredTensor
from monitor.errors import CheckpointError, shown

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What safetensors calls a dtype → the dtype."""

# A safetensors file begins with the length of its header.
_LENGTH_BYTES = 8
# A header of more is no header: the format's own limit.
_MAX_HEADER = 100_000_000
_MOST_SAID = 160
_AGAIN = "Copy or download it again."


def tensors_in(path: Path) -> dict[str, StoredTensor]:
    """Return what a file of weights has, by name.

    Raises:
        CheckpointError: the file is cut short, or in none of the two formats.
    """
    return _in_safetensors(path) if path.suffix == ".safetensors" else _in_torch_file(path)


def _in_safetensors(path: Path) -> dict[str, StoredTensor]:
    file = OpenFile(path)
    header, start = _header_of(file)
    found = {name: _entry(file, name, entry, start) for name, entry in header.items() if name != "__metadata__"}
    needed = max((tensor.start + tensor.count * tensor.dtype.itemsize for tensor in found.values()), default=start)
    if needed > file.size:
        raise CheckpointError(
            f"{str(path)!r} is cut short: it has {file.size} bytes, and its header promises {needed}. {_AGAIN}"
        )
    return found


def _header_of(file: OpenFile) -> tuple[dict[str, Any], int]:
    if file.size < _LENGTH_BYTES:
        raise CheckpointError(f"{str(file.path)!r} is {'cut short' if file.size else 'empty'}. {_AGAIN}")
    length = torch.zeros(_LENGTH_BYTES, dtype=torch.uint8)
    file.read_into(length, 0)
    size = int.from_bytes(length.numpy().tobytes(), "little")
    if size > min(file.size, _MAX_HEADER):
        raise CheckpointError(f"{str(file.path)!r} is cut short, or is no safetensors file. {_AGAIN}")
    text = torch.empty(size, dtype=torch.uint8)
    file.read_into(text, _LENGTH_BYTES)
    try:
        header = json.loads(text.numpy().tobytes())
    except ValueError as error:
        raise CheckpointError(f"{str(file.path)!r} is no safetensors file: its header is no JSON. {_AGAIN}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{str(file.path)!r} is no safetensors file: its header names no tensors. {_AGAIN}")
    return header, _LENGTH_BYTES + size


def _entry(file: OpenFile, name: str, entry: Any, data: int) -> StoredTensor:
    try:
        dtype, shape = entry["dtype"], tuple(int(size) for size in entry["shape"])
        first, last = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{str(file.path)!r} is damaged: its entry for {shown(name)} is {shown(entry)}."
        ) from error
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{str(file.path)!r} has {name} in the dtype {shown(dtype)}, which cannot be compared; expected "
            "bfloat16, float16 or float32. Save the model dequantised, and give that."
        )
    tensor = StoredTensor(file, data + first, DTYPES[dtype], shape)
    if last - first != tensor.count * tensor.dtype.itemsize or min((first, *shape)) < 0:
        raise _damaged(file, name, entry)
    return tensor


def _damaged(file: OpenFile, name: str, entry: Any) -> CheckpointError:
    return CheckpointError(f"{str(file.path)!r} is damaged: its header says of {shown(name)} {shown(entry)}. {_AGAIN}")


def _in_torch_file(path: Path) -> dict[str, StoredTensor]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    file = OpenFile(path)
    try:
        # Of fake tensors, torch notes where in the file their weights are, and reads none of them.
        with FakeTensorMode():
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(
            f"cannot read {str(path)!r} as weights that torch.save wrote{_why(error)}. It is cut short, or has "
            "something else than tensors in it; copy or download it again, or save it as safetensors."
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{str(path)!r} holds a {type(found).__name__}; expected {{parameter name: tensor}}.")
    return {str(name): _torch_entry(file, str(name), tensor) for name, tensor in found.items()}


def _torch_entry(file: OpenFile, name: str, tensor: Any) -> StoredTensor:
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(
            f"{str(file.path)!r} holds a {type(tensor).__name__} under {shown(name)}; expected "
            "{parameter name: tensor}, as save_pretrained writes it."
        )
    if tensor.layout is not torch.strided:
        raise CheckpointError(
            f"{str(file.path)!r} holds {shown(name)} as {tensor.layout}, of which nothing is read in part. "
            "Save it dense."
        )
    storage = tensor.untyped_storage()
    offset = getattr(storage, "_checkpoint_offset", None)
    if offset is None:
        raise CheckpointError(
            f"{str(file.path)!r} is in the format of torch before 1.6, of which nothing is read in part. Load and save "
            "it once with torch, or as safetensors."
        )
    start = offset + tensor.storage_offset() * tensor.element_size()
    strides = None if tensor.is_contiguous() else tuple(tensor.stride())
    return StoredTensor(file, start, tensor.dtype, tuple(tensor.shape), strides)


def _why(error: Exception) -> str:
    """Return what torch says, as a clause; nothing of what it advises, as to load what runs code."""
    said = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
    return f": {said[:_MOST_SAID]}" if said and not isinstance(error, pickle.UnpicklingError) else ""
