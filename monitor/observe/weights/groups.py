"""Parameter name → group: the (layer, module) pair that counts are reported for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Names that wrappers put into a parameter's path: DDP, torch.compile, FSDP1, activation checkpointing.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
_EXPERT = re.compile(r"\bexperts\.\d+\.")
# Containers of the language model itself. What is left of the path before the layer number, such as the
# "vision_tower" of a vision-language model, tells apart layers that have the same number.
_TRUNK = frozenset({"model", "transformer", "backbone", "gpt_neox", "decoder", "language_model"})


@dataclass(frozen=True)
class GroupKey:
    """One module of one layer; `layer` is None outside the layers."""

    layer: int | None
    module: str


@dataclass(frozen=True)
class Group:
    """A group with its number of weights, `frozen_weights` of which belong to parameters that were never trained."""

    layer: int | None
    module: str
    weights: int
    frozen_weights: int = 0

    @property
    def trained_weights(self) -> int:
        """Number of weights that are measured, because they train or did at some time in this run."""
        return self.weights - self.frozen_weights


def clean_name(name: str) -> str:
    """Return the parameter's name without what wrappers added.

    >>> clean_name("module._orig_mod.model.norm.weight")
    'model.norm.weight'
    """
    return _WRAPPERS.sub("", name)


def group_key(name: str) -> GroupKey:
    """Return the group of a parameter. Weight and bias of a module go together, and so do all experts of a layer.

    >>> group_key("model.layers.7.self_attn.q_proj.weight")
    GroupKey(layer=7, module='self_attn.q_proj')
    >>> group_key("model.embed_tokens.weight")
    GroupKey(layer=None, module='embed_tokens')
    >>> group_key("model.visual.blocks.3.attn.qkv.bias")
    GroupKey(layer=3, module='visual.attn.qkv')
    """
    path = _EXPERT.sub("experts.", clean_name(name))
    path = path.removesuffix(".weight").removesuffix(".bias")
    match = _LAYER.search(path + ".")
    if match is None:
        return GroupKey(None, _without_trunk(path))
    prefix, rest = path[: match.start()], path[match.end() :]
    module = ".".join(part for part in (_without_trunk(prefix), rest) if part)
    return GroupKey(int(match.group(1)), module or "weight")


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
        """Build the table from (name, number of weights, frozen?) of each parameter."""
        positions: dict[GroupKey, int] = {}
        index: dict[str, int] = {}
        weights: list[int] = []
        frozen_weights: list[int] = []
        for name, count, frozen in parameters:
            position = positions.setdefault(group_key(name), len(positions))
            if position == len(weights):
                weights.append(0)
                frozen_weights.append(0)
            index[name] = position
            weights[position] += count
            frozen_weights[position] += count if frozen else 0
        groups = zip(positions, weights, frozen_weights, strict=True)
        return cls(tuple(Group(key.layer, key.module, n, frozen) for key, n, frozen in groups), index)
