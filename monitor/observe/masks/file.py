"""Masks in safetensors files: written and read chunk by chunk, so that nothing is in memory twice."""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch

from monitor.errors import MaskFileError, MissingLibraryError
from monitor.observe.arguments import path_from
from monitor.observe.bits import BITS_PER_WORD, chunks, word_count

_FORMAT = "sparsity-monitor mask"
_FORMAT_VERSION = 1
_ALIGNMENT = 8
_WORD_BYTES = BITS_PER_WORD // 8


@dataclass(frozen=True)
class MaskMetadata:
    """Where a mask comes from.

    Attributes:
        criterion: "bits" or "atol=…"; empty for a structural mask.
        visible_dtype: dtype in which weights were compared, such as "bfloat16".
        base_fingerprint: identity of the base weights, hexadecimal; empty if there is none.
        step: optimizer step at which the mask was taken.
        run_id: run that it was taken from; empty if none.
    """

    criterion: str = ""
    visible_dtype: str = ""
    base_fingerprint: str = ""
    step: int = 0
    run_id: str = ""


def write_mask(
    path: str | os.PathLike[str],
    words: Iterable[torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, object],
) -> None:
    """Write a mask; the file appears under `path` only when it is complete.

    Args:
        words: int32 words of each parameter, in the order of `shapes`, on any device. Each is asked for when the one
            before is written, and comes over from another device chunk by chunk.
        shapes: parameter name → shape of the parameter.
        metadata: where the mask comes from: the fields of MaskMetadata, and what else is to be kept with it.

    Raises:
        OSError: the file cannot be written; what was at `path` is still there.
    """
    with written_whole(path) as file:
        file.write(_header(shapes, metadata))
        for tensor, (name, shape) in zip(words, shapes.items(), strict=True):
            if tensor.dtype != torch.int32 or tensor.numel() != word_count(math.prod(shape)):
                raise ValueError(f"{name} has {tensor.numel()} words of {tensor.dtype} for the shape {list(shape)}")
            for chunk in chunks(tensor):
                file.write(tensor[chunk].cpu().numpy().data)


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to write to, which appears under `path` only when the `with` statement ends without an exception.

    Raises:
        OSError: the file cannot be written; what was at `path` is still there.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            # A disk that is full does not say of which file.
            error.filename = str(target)
        raise


def _header(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, object]) -> bytes:
    said = {
        **{name: str(value) for name, value in metadata.items()},
        "format": _FORMAT,
        "format_version": str(_FORMAT_VERSION),
        "shapes": json.dumps({name: list(shape) for name, shape in shapes.items()}),
    }
    counts = {name: word_count(math.prod(shape)) for name, shape in shapes.items()}
    return safetensors_header("I32", _WORD_BYTES, {name: (count,) for name, count in counts.items()}, said)


def safetensors_header(
    dtype: str, element_bytes: int, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]
) -> bytes:
    """Return what a safetensors file begins with, whose tensors of one dtype follow each other in this order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, shape in shapes.items():
        end = start + element_bytes * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


class MaskFile:
    """A mask on disk; what is not asked for is not read.

    The file stays open, so that it is the same mask even when another file takes its place. `close` it, or use it in a
    `with` statement.

    Attributes:
        shapes: parameter name → shape of the parameter.
        metadata: where the mask comes from.
        fields: all that `write_mask` was given as metadata, as text.

    Raises:
        MaskFileError: the file does not exist, is no mask, is damaged, or was written by a newer version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = str(path_from(path, "the path of a mask"))
        try:
            if os.path.isdir(self._path):
                # What safetensors says of it is that there is no such device.
                raise IsADirectoryError("it is a directory")
            self.fields, kinds = _read_header(self._path)
            self.metadata = _metadata(self.fields)
            self.shapes = _shapes(self.fields)
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by close()
        except (OSError, ValueError) as error:
            raise MaskFileError(
                f"cannot read a mask from {self._path!r}: {error}. Expected a file that UpdateMask.save wrote, as "
                "the update_mask.safetensors in a run's output directory."
            ) from error
        self.close = weakref.finalize(self, self._file.close)
        for name, shape in self.shapes.items():
            if kinds.get(name) != ("I32", [word_count(math.prod(shape))]):
                self.close()
                raise self._damaged(f"{name} does not hold one bit per weight")
        self._starts = self._read_starts()

    def _damaged(self, how: str) -> MaskFileError:
        return MaskFileError(f"the mask {self._path!r} is damaged: {how}. Take another copy of it.")

    def _read_starts(self) -> dict[str, int]:
        size = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(size))
        return {name: 8 + size + header[name]["data_offsets"][0] for name in self.shapes}

    def read(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Return the words of a parameter from `first` up to `last`, int32; only these are read.

        Raises:
            KeyError: the mask does not have the parameter.
            MaskFileError: the file is damaged.
        """
        weights = math.prod(self.shapes[name])
        total = word_count(weights)
        last = total if last is None else min(last, total)
        words = torch.empty(max(last - first, 0), dtype=torch.int32, device="cpu")
        if not words.numel():
            return words
        if self._file.closed:
            raise MaskFileError(
                f"the mask {self._path!r} is closed; open it again, or keep its `with` until it is read."
            )
        # Not by safetensors' get_slice: it maps the file into memory, and where that is cut short meanwhile, or is gone
        # from its server, a bus error ends the training.
        self._file.seek(self._starts[name] + _WORD_BYTES * first)
        if self._file.readinto(words.numpy()) != _WORD_BYTES * words.numel():  # type: ignore[attr-defined]
            raise self._damaged(f"it ends within {name}")
        if last == total and (used := weights % BITS_PER_WORD) and int(words[-1]) & 0xFFFFFFFF >= 1 << used:
            raise self._damaged(f"it has more ones for {name} than weights")
        return words

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Another process, or a deep copy, opens the file again."""
        return type(self), (self._path,)


def _read_header(path: str) -> tuple[dict[str, str], dict[str, tuple[str, list[int]]]]:
    """Return the metadata of a mask file, and tensor name → dtype and shape."""
    try:
        # Here, because weights are measured without it, too.
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            "mask files are read with safetensors, which is not installed: pip install safetensors", name=error.name
        ) from None
    try:
        with _as_utf8(path) as named, safe_open(named, framework="pt") as opened:
            found = _check_format(opened.metadata() or {})
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            return found, {name: (each.get_dtype(), each.get_shape()) for name, each in slices.items()}
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def safetensors_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return what a safetensors file says of itself; nothing of any other file, or where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with _as_utf8(os.fspath(path)) as named, safe_open(named, framework="pt") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def is_mask(path: str | os.PathLike[str]) -> bool:
    """Return whether there is a mask that `write_mask` wrote, of whatever version."""
    return safetensors_metadata(path).get("format") == _FORMAT


@contextmanager
def _as_utf8(path: str) -> Iterator[str]:
    """Give a file a name that safetensors takes, which has to be UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        with open(path, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield path


def _check_format(found: dict[str, str]) -> dict[str, str]:
    if found.get("format") != _FORMAT:
        raise ValueError("it is a safetensors file, but not one of a mask")
    version = found.get("format_version", "")
    if not version.isdecimal():
        raise ValueError(f"its format version is {version!r}")
    if int(version) > _FORMAT_VERSION:
        raise ValueError(
            f"it has format version {version}, and this version reads up to {_FORMAT_VERSION}; update sparsity-monitor"
        )
    return found


def _metadata(found: Mapping[str, str]) -> MaskMetadata:
    values: dict[str, Any] = {}
    for name in (field.name for field in fields(MaskMetadata)):
        if name not in found:
            raise ValueError(f"it does not say its {name}")
        values[name] = found[name]
    if not values["step"].isdecimal():
        raise ValueError(f"its step is {values['step']!r}")
    return MaskMetadata(**{**values, "step": int(values["step"])})


def _shapes(found: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    try:
        return {name: tuple(int(size) for size in shape) for name, shape in json.loads(found.get("shapes", "")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"its shapes cannot be read ({error})") from error
