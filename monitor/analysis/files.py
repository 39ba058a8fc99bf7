"""The tensors of a checkpoint as they lie on disk: a directory, a hub id, or one file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from monitor.analysis.formats import tensors_in
from monitor.analysis.hub import HubRepository, is_hub_id
from monitor.analysis.stored import StoredTensor
from monitor.errors import CheckpointError, name_some, shown

# In the order in which transformers looks for them, and what adapters are saved as.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_INDEX = ".index.json"
# What accelerate writes for weights that stay sharded.
_SHARDED = ("pytorch_model_fsdp_*", "global_step*", "*.distcp")


class _Place(Protocol):
    """Where the files of a checkpoint are."""

    def file(self, name: str) -> Path | None:
        """Return a file of this name; None if there is none."""

    def why_nothing(self) -> str:
        """Return why there may be no weights, as sentences; "" if that is not known."""


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path

    def file(self, name: str) -> Path | None:
        found = self._path / name
        return found if found.is_file() else None

    def why_nothing(self) -> str:
        if any(True for pattern in _SHARDED for _ in self._path.glob(pattern)):
            return (
                " It has those of a sharded training: put them together first, for FSDP with `accelerate "
                "merge-weights`, for DeepSpeed with its zero_to_fp32.py."
            )
        below = sorted(path.name for path in self._path.glob("checkpoint-*") if path.is_dir())
        return f" Below it are {name_some(below, 3)}; give one of these." if below else ""


class CheckpointFiles:
    """The tensors of a checkpoint under the names that they have on disk. No weights are read until they are asked for.

    Attributes:
        source: what was given: a directory, a file, or a hub id.
        tensors: name → tensor on disk, in the order of the files.
    """

    def __init__(self, source: str, place: _Place, tensors: dict[str, StoredTensor]) -> None:
        self.source = source
        self.tensors = tensors
        self._place = place

    @classmethod
    def open(cls, source: str | Path) -> CheckpointFiles:
        """Look into a directory, a file (.safetensors, .bin, .pt, .pth), or a hub id, with `@revision` if wanted.

        What is not in the local cache of the hub is downloaded, as transformers does it.

        Raises:
            CheckpointError: there is nothing, it has no weights, a file is cut short, or the hub cannot be reached.
        """
        try:
            return cls._found(source)
        except OSError as error:
            raise CheckpointError(f"cannot read {shown(str(source))}: {error.strerror or error}.") from error

    @classmethod
    def _found(cls, source: str | Path) -> CheckpointFiles:
        if not str(source):
            raise CheckpointError("the name of a checkpoint is empty; expected the directory of one, or a hub id.")
        path = Path(source)
        if path.is_file():
            return cls(str(source), _Directory(path.parent), tensors_in(path))
        if not path.is_dir() and not is_hub_id(str(source)):
            raise CheckpointError(
                f"{str(source)!r} is no directory, no file and no hub id; expected the directory of a checkpoint, or a "
                'hub id such as "Qwen/Qwen2.5-0.5B".'
            )
        place: _Place = _Directory(path) if path.is_dir() else HubRepository.named(str(source))
        return cls(str(source), place, dict(_tensors_at(place, str(source))))

    @property
    def adapter(self) -> dict[str, Any] | None:
        """The configuration of the adapters that these are; None if they are whole weights."""
        return self.json("adapter_config.json")

    @property
    def directory(self) -> Path:
        """The directory that the files are in, of a hub id in the local cache."""
        return next(iter(self.tensors.values())).file.path.parent

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors, in the order of the files."""
        return tuple(self.tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Name → dtype in which it is stored."""
        return {name: tensor.dtype for name, tensor in self.tensors.items()}

    @property
    def bytes(self) -> int:
        """Bytes that the tensors take on disk."""
        return sum(tensor.count * tensor.dtype.itemsize for tensor in self.tensors.values())

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor, contiguous, in host memory; no other is read.

        Raises:
            KeyError: there is none of this name.
            CheckpointError: the file cannot be read.
        """
        return self.tensors[name].read()

    def json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON file beside the weights, such as "config.json"; None if there is none.

        Raises:
            CheckpointError: it is none.
        """
        path = self._place.file(name)
        return None if path is None else _json_of(path)


def _tensors_at(place: _Place, source: str) -> Iterator[tuple[str, StoredTensor]]:
    # Weights beside an adapter are of its base, or merged: transformers and PEFT take the adapter.
    order = (*_ADAPTERS, *_WEIGHTS) if place.file("adapter_config.json") else _WEIGHTS
    found = next((path for name in order if (path := place.file(name)) is not None), None)
    if found is None:
        raise CheckpointError(f"{source!r} has no weights; expected one of {', '.join(order)}.{place.why_nothing()}")
    if found.name.endswith(_INDEX):
        yield from _sharded(place, found, source)
    else:
        yield from tensors_in(found).items()


def _sharded(place: _Place, index: Path, source: str) -> Iterator[tuple[str, StoredTensor]]:
    where = _json_of(index).get("weight_map")
    if not isinstance(where, Mapping):
        raise CheckpointError(f"{str(index)!r} has no weight_map, which says where each tensor is. Download it again.")
    missing = []
    for shard in dict.fromkeys(map(str, where.values())):
        path = place.file(shard)
        tensors = {} if path is None else tensors_in(path)
        wanted = [name for name, holder in where.items() if holder == shard]
        missing += [shard] if path is None else [name for name in wanted if name not in tensors]
        yield from ((name, tensors[name]) for name in wanted if name in tensors)
    if missing:
        raise CheckpointError(
            f"{source!r} is not complete: its index names {name_some(missing)}, and that is not there. Copy or "
            "download it again."
        )


def _json_of(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error}.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{str(path)!r} holds no JSON object.")
    return found
