"""Which weights of each tensor are inside the mask, of the model's parameters and of what optimizers step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from monitor.errors import ConfigurationError, MaskMismatchError
from monitor.observe.bits import count_ones, pack, unpack, word_count
from monitor.observe.masks.mask import check_covers
from monitor.observe.masks.references import ReferenceMask
from monitor.observe.weights.names import by_clean_name
from monitor.observe.weights.shard import Shard, whole_bounds


@dataclass(frozen=True)
class Inside:
    """What of a tensor, as this process holds it, is inside the mask.

    Attributes:
        words: one bit per weight, int32, where the weights are.
        shape: of what this process holds.
        ones: number of weights inside.
    """

    words: torch.Tensor
    shape: tuple[int, ...]
    ones: int

    @classmethod
    def of_words(cls, words: torch.Tensor, shape: Iterable[int], device: torch.device) -> Inside:
        """Take the words to where the weights are."""
        return cls(words.to(device), tuple(shape), count_ones(words))

    @property
    def is_everything(self) -> bool:
        """Whether nothing is outside."""
        return self.ones == math.prod(self.shape)

    def bools(self) -> torch.Tensor:
        """Return the mask as booleans of the shape: for a moment, since they take eight times the words' memory."""
        # Bit i of a byte is weight i: as the words are, on the little-endian machines that torch runs on.
        shifts = torch.arange(8, dtype=torch.uint8, device=self.words.device)
        bits = (self.words.view(torch.uint8).unsqueeze(1) >> shifts).bitwise_and_(1)
        return bits.view(torch.bool).view(-1)[: math.prod(self.shape)].view(self.shape)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor, the same memory, without its gradient's history."""
    held: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return held.detach()


class Coverage:
    """The mask beside the parameters of a model. Frozen ones are covered when they start to train.

    Args:
        model: the model that trains, wrapped or not.
        mask: it must cover every trainable parameter.

    Attributes:
        trainable: the parameters that train from the start, by clean name.
        when_taken_up: called with each parameter that starts to train later.

    Raises:
        MaskMismatchError: the mask lacks a parameter, or has another shape.
        UnsupportedModelError: two parameters have the same clean name.
    """

    def __init__(self, model: nn.Module, mask: ReferenceMask) -> None:
        self._mask = mask
        self.when_taken_up: Callable[[torch.Tensor, Inside], None] = lambda parameter, inside: None
        self._named = by_clean_name(model.named_parameters())
        self._names = {id(parameter): name for name, parameter in self._named.items()}
        self.trainable = {name: p for name, p in self._named.items() if p.requires_grad}
        check_covers(mask.shapes, _shapes(self.trainable), "the model")
        # With the tensors, so that no other one gets the id of one that is gone.
        self._inside: dict[int, tuple[torch.Tensor, Inside]] = {}
        for parameter in self.trainable.values():
            self._take_up(parameter)

    def has(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor is one of the model's parameters, or has been added."""
        return id(tensor) in self._names or id(tensor) in self._inside

    def covers_any(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Whether what is inside the mask is known of one of the tensors."""
        return any(map(self.covers, tensors))

    def covers(self, tensor: torch.Tensor) -> bool:
        """Whether what is inside the mask of a tensor is known already."""
        return id(tensor) in self._inside

    def of(self, tensor: torch.Tensor) -> Inside:
        """Return what of a tensor is inside the mask.

        Raises:
            MaskMismatchError: it is a parameter that has started to train, and the mask lacks it.
            ConfigurationError: it is none of the model's parameters.
        """
        if id(tensor) not in self._inside:
            self._take_up(tensor)
        return self._inside[id(tensor)][1]

    def _take_up(self, parameter: torch.Tensor) -> None:
        name = self._names.get(id(parameter))
        if name is None:
            raise ConfigurationError(
                f"an optimizer has got a tensor of shape {list(parameter.shape)} that the model of the Subnetwork does "
                "not have. Make the Subnetwork when model and optimizers are complete."
            )
        check_covers(self._mask.shapes, _shapes({name: parameter}), "the model")
        shard = _shard(name, parameter)
        words = shard.words_of_whole(partial(self._mask.read, name))
        if words.dtype != torch.int32 or words.shape != (word_count(shard.count),):
            raise MaskMismatchError(
                f"the mask has words of {words.dtype} and shape {list(words.shape)} for {name}; expected int32 of "
                f"shape {[word_count(shard.count)]}. Make masks with UpdateMask.from_bools."
            )
        held = local(parameter)
        inside = Inside.of_words(words, held.shape, held.device)
        self._inside[id(parameter)] = parameter, inside
        self.when_taken_up(parameter, inside)

    def add_partition(self, partition: torch.Tensor, group: int) -> None:
        """Cover what a DeepSpeed optimizer steps in the place of the parameters of a group: its own, flat part of them.

        What pads it is outside.
        """
        bools = torch.zeros(partition.numel(), dtype=torch.bool, device="cpu")
        for name, parameter in self.trainable.items():
            held: Any = getattr(parameter, "_hp_mapping", None)
            if held is None or held.param_group_index != group:
                continue
            start, count = held.lp_fragment_address.start, held.lp_fragment_address.numel
            shard = Shard(name, tuple(parameter.shape), whole_bounds(tuple(parameter.shape)), start, start + count)
            words = shard.words_of_whole(partial(self._mask.read, name)).cpu()
            bools[held.hp_fragment_address.start :][:count] = unpack(words, count)
        self._inside[id(partition)] = partition, Inside.of_words(pack(bools), partition.shape, partition.device)


def _shapes(parameters: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in parameters.items()}


def _shard(name: str, parameter: Any) -> Shard:
    """Return what this process holds of a parameter: all of it, or of a DTensor what lies within some bounds."""
    shape = tuple(parameter.shape)
    if not hasattr(parameter, "device_mesh"):
        return Shard(name, shape, whole_bounds(shape), 0, parameter.numel())
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sizes, offsets = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    bounds = tuple((offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))
    return Shard(name, shape, bounds, 0, math.prod(sizes))
