"""UpdateMask: one bit per weight, with set algebra, counts and a safetensors file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from monitor.errors import MaskFileError, MaskMismatchError, name_some
from monitor.observe.kernels.contract import word_count
from monitor.observe.kernels.reference import pack, unpack

_FORMAT = "sparsity-monitor mask"
_FORMAT_VERSION = 1


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


@dataclass(frozen=True)
class UpdateMask:
    """One bit per weight of the named parameters, packed into 32-bit words.

    Attributes:
        words: parameter name → int32 of shape (⌈n/32⌉,); bit i of word w belongs to weight 32·w + i in row-major order;
            unused bits are 0.
        shapes: parameter name → shape of the parameter, in the same order as `words`.
    """

    words: dict[str, torch.Tensor]
    shapes: dict[str, tuple[int, ...]]
    metadata: MaskMetadata = field(default_factory=MaskMetadata)

    @classmethod
    def from_bools(cls, bools: Mapping[str, torch.Tensor], metadata: MaskMetadata | None = None) -> UpdateMask:
        """Pack boolean tensors of the parameters' shapes.

        >>> mask = UpdateMask.from_bools({"w": torch.tensor([[True, False], [True, True]])})
        >>> mask.count(), mask.density
        (3, 0.75)
        """
        words = {name: pack(bits.reshape(-1)) for name, bits in bools.items()}
        shapes = {name: tuple(bits.shape) for name, bits in bools.items()}
        return cls(words, shapes, metadata or MaskMetadata())

    def bools(self, name: str) -> torch.Tensor:
        """Return the mask of one parameter as booleans of its shape."""
        shape = self.shapes[name]
        return unpack(self.words[name], math.prod(shape)).view(shape)

    @property
    def weights(self) -> int:
        """Number of weights that the mask covers."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def counts(self) -> dict[str, int]:
        """Return the number of ones per parameter."""
        return {name: count_ones(words) for name, words in self.words.items()}

    def count(self) -> int:
        """Return the number of ones."""
        return sum(self.counts().values())

    @property
    def density(self) -> float:
        """Ones ÷ weights, between 0 and 1; 0 for a mask of no weights."""
        return self.count() / self.weights if self.weights else 0.0

    def __and__(self, other: UpdateMask) -> UpdateMask:
        return self._combine(other, torch.bitwise_and)

    def __or__(self, other: UpdateMask) -> UpdateMask:
        return self._combine(other, torch.bitwise_or)

    def __xor__(self, other: UpdateMask) -> UpdateMask:
        return self._combine(other, torch.bitwise_xor)

    def __sub__(self, other: UpdateMask) -> UpdateMask:
        return self._combine(other, lambda a, b: a & ~b)

    def _combine(self, other: UpdateMask, operation: Callable[..., torch.Tensor]) -> UpdateMask:
        self.check_covers(other.shapes, "the other mask")
        other.check_covers(self.shapes, "this mask")
        words = {name: operation(self.words[name], other.words[name]) for name in self.words}
        return replace(self, words=words)

    def with_run(self, run_id: str) -> UpdateMask:
        """Return this mask with the run that it was taken from in its metadata."""
        return replace(self, metadata=replace(self.metadata, run_id=run_id))

    def check_covers(self, shapes: Mapping[str, tuple[int, ...]], whose: str) -> None:
        """Check that this mask has every parameter in `shapes`, with its shape.

        Raises:
            MaskMismatchError: it has not; the message names the parameters.
        """
        missing = [name for name in shapes if name not in self.shapes]
        different = [
            f"{name} {list(self.shapes[name])} instead of {list(shape)}"
            for name, shape in shapes.items()
            if name in self.shapes and self.shapes[name] != tuple(shape)
        ]
        if missing or different:
            found = "; ".join(
                f"{what}: {name_some(names)}"
                for what, names in (("missing", missing), ("other shape", different))
                if names
            )
            raise MaskMismatchError(
                f"the mask does not fit {whose} ({found}). Expected a mask of the same architecture that covers every "
                "measured parameter; take one saved by a run of the same model with the same include and exclude."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; it appears under `path` only when it is complete."""
        from safetensors.torch import save_file

        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        save_file({name: words.cpu() for name, words in self.words.items()}, partial, self._file_metadata())
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(target)

    def _file_metadata(self) -> dict[str, str]:
        metadata = {name: str(value) for name, value in vars(self.metadata).items()}
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {
            **metadata,
            "format": _FORMAT,
            "format_version": str(_FORMAT_VERSION),
            "shapes": json.dumps(shapes),
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> UpdateMask:
        """Read a file that `save` wrote.

        Raises:
            MaskFileError: the file does not exist, is no mask, is damaged, or was written by a newer version.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                fields = _check_format(file.metadata() or {})
                shapes = {name: tuple(shape) for name, shape in json.loads(fields["shapes"]).items()}
                words = {name: file.get_tensor(name) for name in shapes}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise MaskFileError(
                f"cannot read a mask from {os.fspath(path)!r}: {error}. Expected a file that UpdateMask.save wrote, as "
                "the update_mask.safetensors in a run's output directory."
            ) from error
        for name, shape in shapes.items():
            if words[name].shape != (word_count(math.prod(shape)),) or words[name].dtype != torch.int32:
                raise MaskFileError(f"{os.fspath(path)!r} is damaged: {name} does not hold one bit per weight.")
        return cls(words, shapes, _read_metadata(fields))


def count_ones(words: torch.Tensor) -> int:
    """Return the number of one bits in int32 words, on any device, a piece at a time."""
    # 16 Mi words: the sums of one piece fit into 64 MB of temporaries.
    piece = 1 << 24
    return sum(int(_popcount(words[at : at + piece]).sum().item()) for at in range(0, words.numel(), piece))


def _popcount(words: torch.Tensor) -> torch.Tensor:
    # Bits added in pairs, fours, eights, in parallel (Warren, Hacker's Delight, 5-1). The shifts are arithmetic; the
    # masks clear what they drag in.
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return ((words * 0x01010101) >> 24) & 0xFF


def _check_format(fields: dict[str, str]) -> dict[str, str]:
    if fields.get("format") != _FORMAT:
        raise ValueError("it is a safetensors file, but not one of a mask")
    if int(fields["format_version"]) > _FORMAT_VERSION:
        raise ValueError(
            f"it has format version {fields['format_version']}, and this version reads up to {_FORMAT_VERSION}; "
            "update sparsity-monitor"
        )
    return fields


def _read_metadata(fields: dict[str, str]) -> MaskMetadata:
    return MaskMetadata(
        criterion=fields["criterion"],
        visible_dtype=fields["visible_dtype"],
        base_fingerprint=fields["base_fingerprint"],
        step=int(fields["step"]),
        run_id=fields["run_id"],
    )
