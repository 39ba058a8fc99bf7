"""UpdateMask: one bit per weight, with set algebra, counts and a safetensors file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch

from monitor.errors import ConfigurationError, MaskFileError, MaskMismatchError, name_some, shown
from monitor.observe.arguments import path_from
from monitor.observe.bits import combine, count_common_ones, count_ones, pack, unpack
from monitor.observe.masks.file import MaskFile, MaskMetadata, write_mask
from monitor.observe.overlap import Overlap, expected_intersection


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

        Raises:
            TypeError: a tensor is not boolean.
        """
        if not isinstance(bools, Mapping):
            raise ConfigurationError(f"bools is {shown(bools)}; expected {{parameter name: boolean tensor}}.")
        kinds = {name: getattr(bits, "dtype", type(bits).__name__) for name, bits in bools.items()}
        if others := [f"{name} {kind}" for name, kind in kinds.items() if kind != torch.bool]:
            raise TypeError(f"not boolean: {name_some(others)}; compare first, as in `tensor != 0`.")
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

    def _combine(
        self, other: UpdateMask, operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> UpdateMask:
        self._check_same(other)
        words = {name: combine(operation, self.words[name], other.words[name]) for name in self.words}
        return replace(self, words=words)

    def common_counts(self, other: UpdateMask) -> dict[str, int]:
        """Return the number of ones that both masks have, per parameter, without a mask of them.

        Raises:
            MaskMismatchError: the masks do not cover the same parameters.
        """
        self._check_same(other)
        return {name: count_common_ones(words, other.words[name]) for name, words in self.words.items()}

    def overlap(self, other: UpdateMask) -> Overlap:
        """Return how far this mask coincides with another one, the reference.

        >>> mask = UpdateMask.from_bools({"w": torch.tensor([True, True, False, False])})
        >>> mask.overlap(mask).jaccard, mask.overlap(mask).lift
        (1.0, 2.0)

        Raises:
            MaskMismatchError: the masks do not cover the same parameters.
        """
        common = self.common_counts(other)
        ones, references = self.counts(), other.counts()
        by_chance = (expected_intersection(math.prod(self.shapes[name]), ones[name], references[name]) for name in ones)
        return Overlap(
            weights=self.weights,
            changed=sum(ones.values()),
            reference=sum(references.values()),
            intersection=sum(common.values()),
            expected_intersection=math.fsum(by_chance),
        )

    def _check_same(self, other: UpdateMask) -> None:
        if not isinstance(other, UpdateMask):
            raise ConfigurationError(f"the other mask is {shown(other)}; expected an UpdateMask.")
        check_covers(self.shapes, other.shapes, "the other mask")
        check_covers(other.shapes, self.shapes, "this mask")

    def read(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Return the words of a parameter from `first` up to `last`, int32, without a copy.

        Raises:
            KeyError: the mask does not have the parameter.
        """
        return self.words[name][first:last]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; it appears under `path` only when it is complete."""
        write_mask(
            path_from(path, "the path of a mask"),
            (self.words[name] for name in self.shapes),
            self.shapes,
            vars(self.metadata),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], names: Iterable[str] | None = None) -> UpdateMask:
        """Read a file that `save` wrote.

        Args:
            path: the file.
            names: parameters whose masks are read; by default all. Nothing else of the file is.

        Raises:
            MaskFileError: the file does not exist, is no mask, is damaged, was written by a newer version, or has no
                mask of a parameter in `names`.
        """
        with MaskFile(path) as file:
            shapes = file.shapes if names is None else {name: _shape_in(file, path, name) for name in names}
            return cls({name: file.read(name) for name in shapes}, shapes, file.metadata)


def _shape_in(file: MaskFile, path: str | os.PathLike[str], name: str) -> tuple[int, ...]:
    if name not in file.shapes:
        raise MaskFileError(f"{os.fspath(path)!r} has no mask of {name!r}; it has {len(file.shapes)} parameters.")
    return file.shapes[name]


def check_covers(covered: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], whose: str) -> None:
    """Check that a mask which covers parameters of some shapes has every one in `shapes`.

    Raises:
        MaskMismatchError: it has not; the message names the parameters.
    """
    missing = [name for name in shapes if name not in covered]
    different = [
        f"{name} {list(covered[name])} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in covered and covered[name] != tuple(shape)
    ]
    if missing or different:
        found = "; ".join(
            f"{what}: {name_some(names)}" for what, names in (("missing", missing), ("other shape", different)) if names
        )
        raise MaskMismatchError(
            f"the mask does not fit {whose} ({found}). Expected a mask of the same architecture that covers every "
            "measured parameter; take one saved by a run of the same model with the same include and exclude."
        )
