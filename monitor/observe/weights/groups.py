"""Parameter names → groups: the modules of the layers, which counts are reported for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from monitor.observe.weights.names import clean_name
from monitor.observe.weights.stacks import split_at_layer, stack_names

_EXPERT = re.compile(r"\bexperts\.\d+\.")
# Containers of the language model itself. What is left of the path before the layer number, such as the
# "vision_tower" of a vision-language model, tells apart modules of stacks that are built alike.
_TRUNK = frozenset({"model", "transformer", "backbone", "gpt_neox", "decoder", "language_model"})


@dataclass(frozen=True)
class GroupKey:
    """One module of one layer; `layer` is None outside the layers, `stack` is empty in a model of one stack."""

    layer: int | None
    module: str
    stack: str = ""


@dataclass(frozen=True)
class Group:
    """A group with its number of weights, `frozen_weights` of which belong to parameters that are not measured.

    Those were never trained in this run, or are lost.

    Attributes:
        layer: its number in the stack; None outside the layers.
        module: different for modules of different stacks.
        stack: which of several stacks of layers it is in, such as "encoder"; empty where a model has only one.
    """

    layer: int | None
    module: str
    weights: int
    frozen_weights: int = 0
    stack: str = ""

    @property
    def trained_weights(self) -> int:
        """Number of weights that are measured, because they train or did at some time in this run, and are not lost."""
        return self.weights - self.frozen_weights


@dataclass(frozen=True)
class _Place:
    """Where a parameter is: in a stack of layers, or outside, where `stack` is its own path."""

    stack: str
    layer: int | None
    module: str

    @property
    def unshortened(self) -> str:
        return self.stack if self.layer is None else f"{self.stack}.{self.module}".rstrip(".")

    @property
    def shortened(self) -> str:
        if self.layer is None:
            # "decoder" itself where a decoder is one module.
            return _without_trunk(self.stack) or self.stack
        container = self.stack.rpartition(".")[0]
        return ".".join(part for part in (_without_trunk(container), self.module) if part) or "weight"


def group_keys(names: Iterable[str]) -> dict[str, GroupKey]:
    """Return the group of each parameter of a model.

    Weight and bias of a module go together, and so do all experts of a layer. Modules of different stacks do not,
    whatever their numbers and names.

    >>> names = ["model.visual.blocks.7.attn.qkv.bias", "model.layers.7.self_attn.q_proj.weight", "model.norm.weight"]
    >>> for key in group_keys(names).values():
    ...     print(key)
    GroupKey(layer=7, module='visual.attn.qkv', stack='visual')
    GroupKey(layer=7, module='self_attn.q_proj', stack='model')
    GroupKey(layer=None, module='norm', stack='')
    """
    places = {name: _place(name) for name in names}
    stacks = stack_names(dict.fromkeys(place.stack for place in places.values() if place.layer is not None))
    ambiguous = _ambiguous(places)
    keys = {}
    for name, place in places.items():
        layered = place.layer is not None
        module = place.unshortened if (layered, place.shortened) in ambiguous else place.shortened
        keys[name] = GroupKey(place.layer, module, stacks[place.stack] if layered else "")
    return keys


def _place(name: str) -> _Place:
    path = clean_name(name).removesuffix(".weight").removesuffix(".bias")
    found = split_at_layer(path)
    if found is None:
        return _Place(_EXPERT.sub("experts.", path), None, "")
    stack, layer, module = found
    return _Place(stack, layer, _EXPERT.sub("experts.", module))


def _ambiguous(places: Mapping[str, _Place]) -> set[tuple[bool, str]]:
    """Return the short names, inside and outside the layers, that modules in different places would have."""
    first: dict[tuple[bool, str], str] = {}
    ambiguous = set()
    for place in places.values():
        short = (place.layer is not None, place.shortened)
        if first.setdefault(short, place.stack) != place.stack:
            ambiguous.add(short)
    return ambiguous


def _without_trunk(path: str) -> str:
    parts = path.split(".")
    while parts and parts[0] in _TRUNK:
        parts.pop(0)
    return ".".join(parts)


@dataclass(frozen=True)
class GroupTable:
    """The groups of a model in the order of their first parameter, and which parameter belongs to which."""

    groups: tuple[Group, ...]
    index: dict[str, int]

    @classmethod
    def build(cls, parameters: Iterable[tuple[str, int, bool]]) -> GroupTable:
        """Build the table from (name, number of weights, frozen?) of each parameter of the model."""
        rows = list(parameters)
        keys = group_keys(name for name, _, _ in rows)
        positions: dict[GroupKey, int] = {}
        index: dict[str, int] = {}
        weights: list[int] = []
        frozen_weights: list[int] = []
        for name, count, frozen in rows:
            position = positions.setdefault(keys[name], len(positions))
            if position == len(weights):
                weights.append(0)
                frozen_weights.append(0)
            index[name] = position
            weights[position] += count
            frozen_weights[position] += count if frozen else 0
        groups = zip(positions, weights, frozen_weights, strict=True)
        return cls(tuple(Group(key.layer, key.module, n, frozen, key.stack) for key, n, frozen in groups), index)
