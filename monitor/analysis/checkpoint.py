"""A checkpoint under its model's own names: converted as transformers does, tied weights once, adapters merged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monitor.analysis.adapter import with_adapter
from monitor.analysis.conversion import Weights, under_model_names
from monitor.analysis.files import CheckpointFiles
from monitor.analysis.skeleton import Skeleton, skeleton_of
from monitor.analysis.stored import StoredTensor
from monitor.errors import CheckpointError, name_some
from monitor.observe.weights.groups import GroupKey, group_keys
from monitor.observe.weights.names import clean_name

COMPARABLE = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# Of these, integers may be buffers; the others are what quantised weights are stored as.
_INTEGERS = (torch.int16, torch.int32, torch.int64, torch.bool)
# Of tied weights that are both on disk, so many are compared at a time.
_WEIGHTS_AT_ONCE = 1 << 24


class Checkpoint:
    """The parameters of a model on disk. None is read until it is asked for.

    Attributes:
        source: what was given: a directory, a file, or a hub id.
        files: the tensors as they lie on disk; with adapters, those of the adapter.
        parameters: name → weights, each parameter once, in the model's order.
        tied: other name → name in `parameters`, of weights that are the same.
        groups: name → group that it is reported in, as in training.
        unchanged: names of the parameters that an adapter leaves as they are in its base.
        left_out: names on disk that are no parameters of the model, or no floating point: they are not compared.
        skeleton: the model; None where transformers does not know it, so that names are those on disk.
        configuration: what is in config.json, of an adapter's base; {} if there is none.
    """

    def __init__(
        self,
        files: CheckpointFiles,
        parameters: Mapping[str, Weights],
        tied: Mapping[str, str],
        skeleton: Skeleton | None,
        configuration: Mapping[str, Any],
        *,
        unchanged: Iterable[str] = (),
        left_out: Iterable[str] = (),
    ) -> None:
        self.source = files.source
        self.files = files
        self.parameters = dict(parameters)
        self.tied = dict(tied)
        self.skeleton = skeleton
        self.configuration = dict(configuration)
        self.unchanged = frozenset(unchanged)
        self.left_out = tuple(left_out)
        self.groups: dict[str, GroupKey] = group_keys(self.parameters)

    @classmethod
    def open(cls, source: str | Path, *, like: Checkpoint | None = None, base: Checkpoint | None = None) -> Checkpoint:
        """Find the parameters of a checkpoint.

        Args:
            source: a directory, a hub id (with `@revision` if wanted), or a file.
            like: what it is loaded as, where that is the same kind of model; by default what its config.json names.
            base: what adapters are merged into; by default what their configuration names.

        Raises:
            CheckpointError: it is no checkpoint, or one that cannot be compared, as a quantised one.
            UnsupportedModelError: it has adapters whose effective weights are not computed here.
        """
        files = CheckpointFiles.open(source)
        if files.adapter is not None:
            return cls._of_adapter(files, base or cls._base_of(files.adapter, files.source))
        configuration = files.json("config.json") or (like.configuration if like else {})
        _refuse_quantised(configuration, files.source)
        same_kind = like is not None and configuration.get("model_type") == like.configuration.get("model_type")
        skeleton = skeleton_of(configuration, like.architecture if like and same_kind else None)
        found = _named(files, skeleton)
        return cls(files, found.parameters, found.tied, skeleton, configuration, left_out=found.left_out)

    @classmethod
    def _base_of(cls, adapter: Mapping[str, Any], source: str) -> Checkpoint:
        named = adapter.get("base_model_name_or_path")
        if not named:
            raise CheckpointError(
                f"{source!r} holds adapters and does not say of which base; give the base that they were trained on."
            )
        try:
            return cls.open(str(named))
        except CheckpointError as error:
            raise CheckpointError(f"{source!r} holds adapters, whose base cannot be opened: {error}") from error

    @classmethod
    def _of_adapter(cls, files: CheckpointFiles, base: Checkpoint) -> Checkpoint:
        fresh = skeleton_of(base.configuration, base.architecture) if base.skeleton else None
        if fresh is None:
            raise CheckpointError(
                f"{files.source!r} holds adapters, and transformers does not know the model of {base.source!r}, which "
                "they are merged into. Save the merged model, and give that."
            )
        changed = with_adapter(base.parameters, fresh.model, files)
        parameters = {name: changed.get(name, weights) for name, weights in base.parameters.items()}
        unchanged = [name for name in parameters if name not in changed]
        return cls(files, parameters, base.tied, base.skeleton, base.configuration, unchanged=unchanged)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in the model's order."""
        return tuple(self.parameters)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape."""
        return {name: weights.shape for name, weights in self.parameters.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Name → dtype in which it is stored."""
        return {name: weights.dtype for name, weights in self.parameters.items()}

    @property
    def architecture(self) -> str | None:
        """Class of transformers that this was loaded as; None where it is not known."""
        return None if self.skeleton is None else type(self.skeleton.model).__name__

    def read(self, name: str) -> torch.Tensor:
        """Return one parameter, contiguous, in host memory.

        No other is read, but what a conversion or an adapter puts together with it.

        Raises:
            KeyError: there is none of this name.
            CheckpointError: a file cannot be read.
        """
        return self.parameters[name].read()


def _refuse_quantised(configuration: Mapping[str, Any], source: str) -> None:
    quantised = configuration.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown method") if isinstance(quantised, Mapping) else "unknown method"
        raise CheckpointError(
            f"{source!r} is quantised ({method}): what is stored are codes and scales, which say nothing about single "
            "weights. Expected bfloat16, float16 or float32; save the model dequantised, and give that."
        )


class _Named(NamedTuple):
    parameters: dict[str, Weights]
    tied: dict[str, str]
    left_out: list[str]


def _named(files: CheckpointFiles, skeleton: Skeleton | None) -> _Named:
    """Return each parameter once, in the model's order; which names are tied; and what is no parameter."""
    if skeleton is None:
        on_disk = {clean_name(name): files.tensors[name] for name in sorted(files.names, key=_natural)}
        tied = _one_on_disk(on_disk)
        return _comparable({name: on_disk[name] for name in on_disk if name not in tied}, tied, [], files.source)
    named = under_model_names(files.tensors, skeleton, files.source)
    tied = {
        other: name
        for other, name in skeleton.tied.items()
        # As transformers has it, those that are on disk with different weights are not one.
        if other not in named or name not in named or _equal(named[other], named[name])
    }
    untied = [other for other in skeleton.tied if other not in tied]
    found = {}
    for name in (*skeleton.shapes, *untied):
        held = next((each for each in (name, *(o for o, n in tied.items() if n == name)) if each in named), None)
        if held is not None:
            found[name] = named[held]
    others = [name for name in named if not {name} & (found.keys() | tied.keys() | skeleton.buffers)]
    return _comparable(found, tied, others, files.source)


def _one_on_disk(named: Mapping[str, StoredTensor]) -> dict[str, str]:
    first: dict[tuple[Path, int, tuple[int, ...]], str] = {}
    tied = {}
    for name, stored in named.items():
        other = first.setdefault((stored.file.path, stored.start, stored.shape), name) if stored.count else name
        if other != name:
            tied[name] = other
    return tied


def _equal(one: Weights, other: Weights) -> bool:
    if one.shape != other.shape:
        return False
    if isinstance(one, StoredTensor) and isinstance(other, StoredTensor):
        if (one.file.path, one.start) == (other.file.path, other.start):
            return True
        spans = range(0, one.count, _WEIGHTS_AT_ONCE)
        return all(torch.equal(_span(one, first), _span(other, first)) for first in spans)
    return torch.equal(one.read(), other.read())


def _span(stored: StoredTensor, first: int) -> torch.Tensor:
    target = torch.empty(min(_WEIGHTS_AT_ONCE, stored.count - first), dtype=stored.dtype, device="cpu")
    stored.read_span(first, target)
    return target


def _comparable(found: Mapping[str, Weights], tied: dict[str, str], others: list[str], source: str) -> _Named:
    packed = [
        f"{name} {str(weights.dtype).removeprefix('torch.')}"
        for name, weights in found.items()
        if weights.dtype not in (*COMPARABLE, *_INTEGERS)
    ]
    if packed:
        raise CheckpointError(
            f"{source!r} has weights that cannot be compared one by one: {name_some(packed)}. Expected bfloat16, "
            "float16 or float32; save the model dequantised, and give that."
        )
    floats = {name: weights for name, weights in found.items() if weights.dtype in COMPARABLE}
    return _Named(floats, tied, [*others, *(name for name in found if name not in floats)])


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort layers by number."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]
