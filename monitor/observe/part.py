"""Part: which weights of a parameter one of several processes has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from monitor.observe.kernels.contract import BITS_PER_WORD, word_count
from monitor.observe.kernels.reference import pack, unpack

# First and last index + 1 in each dimension.
Box = tuple[tuple[int, int], ...]


def whole_box(shape: tuple[int, ...]) -> Box:
    """Return the box of all weights of a parameter."""
    return tuple((0, size) for size in shape)


@dataclass(frozen=True)
class Part:
    """A consecutive run of the weights of a block of a parameter, in row-major order.

    One process has all weights of a parameter. Among several, each has a block of it, or shares one.

    Attributes:
        name: clean name of the parameter.
        shape: shape of the whole parameter.
        box: the block that the weights are from.
        start, stop: the run within the flattened block.
    """

    name: str
    shape: tuple[int, ...]
    box: Box
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Number of weights."""
        return self.stop - self.start

    def of_whole(self, whole: torch.Tensor) -> torch.Tensor:
        """Return the same weights of another tensor of the parameter's shape, such as its base; shape (count,)."""
        block = whole.detach()[tuple(slice(first, last) for first, last in self.box)] if self.box else whole.detach()
        return block.reshape(-1)[self.start : self.stop]

    def words_of_whole(self, words: torch.Tensor) -> torch.Tensor:
        """Return the bits of these weights out of a packed mask of the whole parameter; shape (word_count(count),)."""
        if self._is_run_of_whole and self.start % BITS_PER_WORD == 0 and self._ends_at_word:
            first = self.start // BITS_PER_WORD
            return words[first : first + word_count(self.count)]
        return pack(self.of_whole(unpack(words, math.prod(self.shape)).view(self.shape)))

    def words_in_whole(self, words: torch.Tensor) -> torch.Tensor:
        """Return a packed mask of the whole parameter that has the bits of these weights, and zeros elsewhere."""
        if self._is_run_of_whole and self.count == math.prod(self.shape):
            return words.clone()
        whole = torch.zeros(self.shape, dtype=torch.bool, device=words.device)
        self.put_into_whole(unpack(words, self.count), whole)
        return pack(whole.reshape(-1))

    @property
    def _is_run_of_whole(self) -> bool:
        return self.box == whole_box(self.shape)

    @property
    def _ends_at_word(self) -> bool:
        return self.stop % BITS_PER_WORD == 0 or self.stop == math.prod(self.shape)

    def put_into_whole(self, bits: torch.Tensor, whole: torch.Tensor) -> None:
        """Set the ones of `bits`, boolean of shape (count,), in a boolean tensor of the parameter's shape."""
        where = tuple(slice(first, last) for first, last in self.box)
        block = torch.zeros([last - first for first, last in self.box], dtype=torch.bool, device=whole.device)
        block.view(-1)[self.start : self.stop] = bits
        whole[where] |= block
