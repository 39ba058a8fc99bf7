"""Masks as others keep them, a boolean for each weight: read from safetensors, torch.save's files, numpy's .npz."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monitor.analysis.formats import tensors_in
from monitor.errors import ConfigurationError, MaskFileError, shown
from monitor.observe.masks.file import safetensors_metadata

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin")
"""What names of files with booleans end in; the last three are torch.save's."""

_NUMPY_ENTRY = ".npy"
# Values that are looked at together: comparing booleans with a number makes eight bytes of each.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class BooleanMask:
    """A file with a boolean for each weight, of which one parameter is read at a time.

    Attributes:
        shapes: parameter name → shape.
        fields: what a safetensors file says of itself.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    _readers: Mapping[str, Callable[[], Any]] = field(repr=False)
    fields: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> BooleanMask:
        """Find out what a file holds, without reading it.

        Raises:
            CheckpointError: it is no safetensors file, and nothing that torch.save wrote.
            MaskFileError: it ends in .npz, and is none.
            ConfigurationError: its name ends in nothing that is known.
        """
        if path.suffix not in SUFFIXES:
            raise ConfigurationError(f"{str(path)!r} ends in none of {', '.join(SUFFIXES)}, which say the format.")
        if path.suffix == ".npz":
            return _in_npz(path)
        tensors = tensors_in(path)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return cls(path, shapes, {name: tensor.read for name, tensor in tensors.items()}, safetensors_metadata(path))

    def read(self, name: str) -> torch.Tensor:
        """Return the booleans of a parameter, of its shape. Numbers count as such where all of them are 0 or 1.

        Raises:
            MaskFileError: there are others, so that something would be lost.
        """
        values = self._readers[name]()
        if values.dtype in (torch.bool, np.bool_):
            return torch.as_tensor(values)
        values = values.reshape(-1)
        ones = torch.empty(len(values), dtype=torch.bool)
        for first in range(0, len(values), _CHUNK):
            chunk = slice(first, first + _CHUNK)
            ones[chunk] = torch.as_tensor(self._ones(name, values[chunk]))
        return ones.view(self.shapes[name])

    def _ones(self, name: str, values: Any) -> Any:
        ones = values == 1
        others = ~(ones | (values == 0))
        if others.any():
            raise MaskFileError(
                f"{name} in {str(self.path)!r} holds what is neither 0 nor 1, such as {values[others][0].item()!r}. "
                "Expected a mask, of booleans or of zeros and ones; compare first, as in `tensor != 0`."
            )
        return ones


def _in_npz(path: Path) -> BooleanMask:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [name for name in archive.namelist() if name.endswith(_NUMPY_ENTRY)]
            shapes = {name.removesuffix(_NUMPY_ENTRY): _shape_in(archive, name) for name in entries}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise MaskFileError(f"cannot read {str(path)!r}: {error}. Expected a file that numpy.savez wrote.") from error
    return BooleanMask(path, shapes, {name: partial(_read_npz, path, name) for name in shapes})


def _shape_in(archive: zipfile.ZipFile, entry: str) -> tuple[int, ...]:
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{shown(entry)} holds Python objects, which are not read")
    return shape


def _read_npz(path: Path, name: str) -> Any:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise MaskFileError(f"cannot read {name} in {str(path)!r}: {error}. Take another copy of it.") from error
