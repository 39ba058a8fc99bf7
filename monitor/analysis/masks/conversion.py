"""A mask file turned into booleans that other tools read, and back. Nothing is lost of the weights; sizes are said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import torch

from monitor.analysis.masks.booleans import BooleanMask
from monitor.analysis.masks.wording import measured_as
from monitor.analysis.masks.written_booleans import Advance, write_npz, write_safetensors, write_torch
from monitor.analysis.progress import advancing
from monitor.errors import ConfigurationError
from monitor.observe.bits import pack
from monitor.observe.criterion import Criterion, dtype_name, parse_visible_dtype
from monitor.observe.masks.file import MaskFile, MaskMetadata, write_mask

_WRITERS: Mapping[str, Callable[[Path, MaskFile, Advance], None]] = {
    ".safetensors": write_safetensors,
    ".npz": write_npz,
    ".pt": write_torch,
    ".pth": write_torch,
    ".bin": write_torch,
}


def stated(criterion: str, visible_dtype: str) -> dict[str, str]:
    """Return what a user says of booleans, in the words that masks use.

    Raises:
        ConfigurationError: it is no criterion, or no dtype that weights are compared in.
    """
    said = {}
    if criterion:
        said["criterion"] = str(Criterion.parse(criterion))
    if visible_dtype:
        said["visible_dtype"] = dtype_name(parse_visible_dtype(visible_dtype))
    return said


def to_booleans(source: Path, target: Path) -> str:
    """Write a mask as booleans, in the format that the name of the target ends in. Return a sentence about it.

    Raises:
        ConfigurationError: the name ends in none that is known.
        MaskFileError: the mask is damaged.
        OSError: the file cannot be written.
    """
    if target.suffix not in _WRITERS:
        raise ConfigurationError(f"{str(target)!r} ends in none of {', '.join(_WRITERS)}, which say the format.")
    with MaskFile(source) as mask:
        with advancing("Converting", _weights(mask.shapes)) as advance:
            _WRITERS[target.suffix](target, mask, advance)
        kept = "" if target.suffix == ".safetensors" else _not_kept(mask.metadata)
        return f"{_written(target, mask.shapes, 'boolean')} ({source}: {_size(source)}).{kept}"


def to_mask(source: Path, target: Path, said: Mapping[str, str]) -> str:
    """Write booleans as a mask. Return a sentence about it.

    Args:
        said: what is known of how they were made, over what the file says.

    Raises:
        CheckpointError, MaskFileError: the file cannot be read, or holds something else than booleans.
        OSError: the file cannot be written.
    """
    booleans = BooleanMask.open(source)
    known = _origin(booleans.fields) | dict(said)
    with advancing("Converting", _weights(booleans.shapes)) as advance:
        write_mask(target, _words(booleans, advance), booleans.shapes, known)
    how = measured_as(MaskMetadata(criterion=known["criterion"], visible_dtype=known["visible_dtype"]))
    return f"{_written(target, booleans.shapes, 'bit')} ({source}: {_size(source)}). Measured by: {how}."


def _origin(said: Mapping[str, str]) -> dict[str, str]:
    """Return what booleans that were a mask say of it, and nothing of others, whose words may mean something else."""
    names = [field.name for field in fields(MaskMetadata)]
    if all(name in said for name in names):
        return {name: said[name] for name in names}
    return {name: str(value) for name, value in vars(MaskMetadata()).items()}


def _words(booleans: BooleanMask, advance: Advance) -> Iterator[torch.Tensor]:
    for name, shape in booleans.shapes.items():
        yield pack(booleans.read(name).reshape(-1))
        advance(math.prod(shape))


def _weights(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _not_kept(metadata: MaskMetadata) -> str:
    options = "".join(
        f" --{option} {value}"
        for option, value in (("criterion", metadata.criterion), ("visible-dtype", metadata.visible_dtype))
        if value
    )
    return f" It has no place for where the mask comes from; convert it back with{options}." if options else ""


def _written(target: Path, shapes: Mapping[str, tuple[int, ...]], unit: str) -> str:
    return f"{target}: a {unit} for each of {_weights(shapes):,} weights in {len(shapes):,} parameters, {_size(target)}"


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"
