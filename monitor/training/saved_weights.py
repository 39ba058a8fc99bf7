"""The weights in a checkpoint that was just saved, and whether they are those that the model holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from monitor.observe.weights.measured import MeasuredWeights

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_ROWS = 8


@dataclass(frozen=True)
class _Place:
    """Where a file has a tensor, and what it is like."""

    path: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class SavedWeights(Mapping[str, torch.Tensor]):
    """The floating-point tensors in the safetensors files of a checkpoint, by name; each is read when it is asked for.

    Not through a map of the file into memory: where that is cut short meanwhile, a bus error ends the training.

    Args:
        checkpoint: the directory. One that has none of these files has no weights.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._places = {name: place for path in checkpoint.glob("*.safetensors") for name, place in _places(path)}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._read(self._places[name], 0, math.prod(self._places[name].shape)).view(self._places[name].shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def has_all(self, measured: list[MeasuredWeights]) -> bool:
        """Return whether all that is measured is there, under its own name."""
        return all(w.name in self._places and self._places[w.name].shape == w.shape for w in measured)

    def differ_from(self, measured: list[MeasuredWeights]) -> bool:
        """Return whether the model holds other weights now, as far as some rows of each parameter tell.

        What one process holds in part, or is saved under another name or in another dtype, says nothing.
        """
        return any(self._differs(weights) for weights in measured)

    def _differs(self, weights: MeasuredWeights) -> bool:
        place, held = self._places.get(weights.name), weights.source.detach()
        if place is None or (place.shape, place.dtype) != (tuple(held.shape), held.dtype) or not held.numel():
            return False
        rows = held.reshape(-1, held.shape[-1] if held.dim() else 1)
        width = rows.shape[1]
        some = sorted({len(rows) * i // _ROWS for i in range(_ROWS)})
        here = rows[torch.tensor(some, device=held.device)].cpu()
        there = torch.stack([self._read(place, row * width, width) for row in some])
        return not torch.equal(here.view(torch.uint8), there.view(torch.uint8))

    @staticmethod
    def _read(place: _Place, first: int, count: int) -> torch.Tensor:
        size = place.dtype.itemsize
        data = bytearray(count * size)
        with place.path.open("rb") as file:
            file.seek(place.start + first * size)
            if file.readinto(data) != len(data):
                raise OSError(f"{place.path} is cut short")
        return torch.frombuffer(data, dtype=place.dtype) if data else torch.empty(0, dtype=place.dtype, device="cpu")


def _places(path: Path) -> Iterator[tuple[str, _Place]]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in _DTYPES:
            start = 8 + size + entry["data_offsets"][0]
            yield name, _Place(path, start, _DTYPES[entry["dtype"]], tuple(entry["shape"]))
