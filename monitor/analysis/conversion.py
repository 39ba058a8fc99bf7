"""Names on disk → names in the model, by transformers' own rules for loading: renamed, split, merged, fused experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from monitor.analysis.skeleton import Skeleton
from monitor.analysis.stored import StoredTensor
from monitor.errors import CheckpointError, name_some


class Weights(Protocol):
    """The weights of one parameter, which are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""

    @property
    def dtype(self) -> torch.dtype:
        """How the weights are stored."""

    def read(self) -> torch.Tensor:
        """Return them, contiguous, in host memory."""


@dataclass
class Conversion:
    """One of transformers' converters, with what it takes from disk and what it makes of that.

    Attributes:
        converter: of transformers.
        first: the target that it goes by.
        model: on the meta device; converters look into its configuration.
        sources: (the converter's pattern, tensor on disk), in the order in which transformers collects them.
    """

    converter: Any
    first: str
    model: Any
    sources: list[tuple[str, StoredTensor]] = field(default_factory=list)
    _made: dict[str, torch.Tensor] = field(default_factory=dict)

    def shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return name in the model → shape and dtype of what this makes, without reading it."""
        made = self._convert(lambda stored: torch.empty(stored.shape, dtype=stored.dtype, device="meta"))
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in made.items()}

    def read(self, name: str) -> torch.Tensor:
        """Return one of the parameters that this makes.

        All of its sources are in memory for that, once or twice; what else they make is kept until it is asked for.
        """
        if name not in self._made:
            self._made = self._convert(lambda stored: stored.read())
        return self._made.pop(name).contiguous()

    def _convert(self, materialise: Callable[[StoredTensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        converter = deepcopy(self.converter)
        for pattern, stored in self.sources:
            # Called by the converter, one after the other.
            converter.add_tensor(self.first, self.first, pattern, lambda stored=stored: materialise(stored))
        made = converter.convert(self.first, model=self.model, config=self.model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}


@dataclass(frozen=True)
class Converted:
    """A parameter that a conversion makes."""

    conversion: Conversion
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def read(self) -> torch.Tensor:
        """Return the parameter, contiguous, in host memory."""
        return self.conversion.read(self.name)


def under_model_names(tensors: Mapping[str, StoredTensor], skeleton: Skeleton, source: str) -> dict[str, Weights]:
    """Return the tensors on disk as the model has them; what it does not have keeps the name that it would get.

    Raises:
        CheckpointError: a conversion fails, as where one of the experts is missing.
    """
    if all(name in skeleton.shapes or name in skeleton.tied or name in skeleton.buffers for name in tensors):
        return dict(tensors)
    plain, conversions = _planned(tensors, skeleton)
    found: dict[str, Weights] = dict(plain)
    for conversion in conversions:
        try:
            made = conversion.shapes()
        except Exception as error:
            raise CheckpointError(
                f"cannot put together {conversion.first} of {source!r} as transformers does: {error}. Expected all of "
                f"{name_some([pattern for pattern, _ in conversion.sources], 3)}; download or save the model again."
            ) from error
        for name, (shape, dtype) in made.items():
            found[name] = Converted(conversion, name, shape, dtype)
    return found


def _planned(
    tensors: Mapping[str, StoredTensor], skeleton: Skeleton
) -> tuple[dict[str, StoredTensor], list[Conversion]]:
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
    except ImportError:
        # Before version 5, a model has the names that it is saved under.
        return dict(tensors), []
    model = skeleton.model
    state, mapping = model.state_dict(), get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    converter_of = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    plain: dict[str, StoredTensor] = {}
    conversions: dict[str, Conversion] = {}
    for name in sorted(tensors, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target not in state and name in state:
            target, pattern = rename_source_key(name, [], [], model.base_model_prefix, state)
        if pattern is None:
            plain[target] = tensors[name]
            continue
        conversion = conversions.setdefault(target, Conversion(converter_of[pattern], target, model))
        conversion.sources.append((pattern, tensors[name]))
    return plain, list(conversions.values())
