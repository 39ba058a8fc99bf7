"""Masks in safetensors files: written and read piece by piece, so that nothing is in memory twice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch

from monitor.errors import MaskFileError
from monitor.observe.kernels.contract import word_count
from monitor.observe.words import pieces

_FORMAT = "sparsity-monitor mask"
_FORMAT_VERSION = 1
_ALIGNMENT = 8
# What a mask's metadata must have beside its format.
_FIELDS = ("criterion", "visible_dtype", "base_fingerprint", "step", "run_id", "shapes")


def write_mask(
    path: str | os.PathLike[str],
    words: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, object],
) -> None:
    """Write a mask; the file appears under `path` only when it is complete.

    Args:
        words: parameter name → int32 words, on any device. Those on another device come over piece by piece.
        shapes: parameter name → shape of the parameter.
        metadata: where the mask comes from.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(_header(words, shapes, metadata))
            for tensor in words.values():
                for piece in pieces(tensor):
                    file.write(tensor[piece].cpu().numpy().data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _header(
    words: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, object]
) -> bytes:
    header: dict[str, Any] = {
        "__metadata__": {
            **{name: str(value) for name, value in metadata.items()},
            "format": _FORMAT,
            "format_version": str(_FORMAT_VERSION),
            "shapes": json.dumps({name: list(shapes[name]) for name in words}),
        }
    }
    start = 0
    for name, tensor in words.items():
        stop = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": "I32", "shape": [tensor.numel()], "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


class MaskFile:
    """A mask on disk; what is not asked for is not read.

    Use it in a `with` statement.

    Attributes:
        shapes: parameter name → shape of the parameter.
        metadata: what `write_mask` was given, as text.

    Raises:
        MaskFileError: the file does not exist, is no mask, is damaged, or was written by a newer version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from safetensors import SafetensorError, safe_open

        self._path = os.fspath(path)
        try:
            with safe_open(path, framework="pt") as opened:
                self.metadata = _check_format(opened.metadata() or {})
                sizes = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
                kinds = {name: (part.get_dtype(), part.get_shape()) for name, part in sizes.items()}
            self.shapes: dict[str, tuple[int, ...]] = {
                name: tuple(shape) for name, shape in json.loads(self.metadata["shapes"]).items()
            }
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by close()
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise MaskFileError(
                f"cannot read a mask from {self._path!r}: {error}. Expected a file that UpdateMask.save wrote, as "
                "the update_mask.safetensors in a run's output directory."
            ) from error
        for name, shape in self.shapes.items():
            if kinds.get(name) != ("I32", [word_count(math.prod(shape))]):
                self.close()
                raise MaskFileError(f"{self._path!r} is damaged: {name} does not hold one bit per weight.")
        self._starts = self._read_starts()

    def _read_starts(self) -> dict[str, int]:
        size = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(size))
        return {name: 8 + size + header[name]["data_offsets"][0] for name in self.shapes}

    def words(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Return the words of a parameter from `first` up to `last`, int32; only these are read.

        Raises:
            KeyError: the mask does not have the parameter.
        """
        total = word_count(math.prod(self.shapes[name]))
        count = max((total if last is None else min(last, total)) - first, 0)
        words = torch.empty(count, dtype=torch.int32)
        self._file.seek(self._starts[name] + 4 * first)
        if count and self._file.readinto(words.numpy()) != 4 * count:  # type: ignore[attr-defined]
            raise MaskFileError(f"{self._path!r} is damaged: it ends within {name}.")
        return words

    def all_words(self, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """Return the words of the named parameters, by default of all.

        Raises:
            MaskFileError: the mask does not have one of them.
        """
        wanted = list(self.shapes if names is None else names)
        missing = [name for name in wanted if name not in self.shapes]
        if missing:
            raise MaskFileError(f"{self._path!r} has no mask of {missing[0]!r}; it has {len(self.shapes)} parameters.")
        return {name: self.words(name) for name in wanted}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _check_format(fields: dict[str, str]) -> dict[str, str]:
    if fields.get("format") != _FORMAT:
        raise ValueError("it is a safetensors file, but not one of a mask")
    if int(fields["format_version"]) > _FORMAT_VERSION:
        raise ValueError(
            f"it has format version {fields['format_version']}, and this version reads up to {_FORMAT_VERSION}; "
            "update sparsity-monitor"
        )
    if missing := [name for name in _FIELDS if name not in fields]:
        raise ValueError(f"it does not say its {missing[0]}")
    return fields
