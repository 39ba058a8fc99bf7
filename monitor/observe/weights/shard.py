"""Part: which weights of a parameter one of several processes has."""

from __future__ import annotations

import math
from collections.abc import Callable
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

    def words_of_whole(self, read: Callable[[int, int], torch.Tensor]) -> torch.Tensor:
        """Return the bits of these weights out of a packed mask of the whole parameter; shape (word_count(count),).

        Args:
            read: returns the words of the whole mask from one up to another. It is asked for those of the rows that
                these weights are in, once: of a block of columns, that is more than the weights'.
        """
        if not self.count:
            return read(0, 0)
        row, first_row = math.prod(self.shape[1:]), self.box[0][0] if self.box else 0
        if self._is_consecutive:
            start = first_row * row + self.start
            words = read(start // BITS_PER_WORD, word_count(start + self.count))
            return _bits_of(words, start % BITS_PER_WORD, self.count)
        width = math.prod(last - first for first, last in self.box[1:])
        rows = slice(self.start // width, -(-self.stop // width))
        start, stop = ((first_row + rows.start) * row, (first_row + rows.stop) * row)
        words = read(start // BITS_PER_WORD, word_count(stop))
        bits = unpack(words, words.numel() * BITS_PER_WORD)[start % BITS_PER_WORD :][: stop - start]
        columns = tuple(slice(first, last) for first, last in self.box[1:])
        block = bits.view(-1, *self.shape[1:])[(slice(None), *columns)].reshape(-1)
        return pack(block[self.start - rows.start * width :][: self.count])

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
    def _is_consecutive(self) -> bool:
        """Whether the weights lie side by side in the whole parameter, as those of some rows do."""
        return self.box[1:] == whole_box(self.shape)[1:]

    def put_into_whole(self, bits: torch.Tensor, whole: torch.Tensor) -> None:
        """Set the ones of `bits`, boolean of shape (count,), in a boolean tensor of the parameter's shape."""
        where = tuple(slice(first, last) for first, last in self.box)
        block = torch.zeros([last - first for first, last in self.box], dtype=torch.bool, device=whole.device)
        block.view(-1)[self.start : self.stop] = bits
        whole[where] |= block


def _bits_of(words: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """Return `count` bits from bit `first` of the first word on as words of their own; a view where that is all."""
    if first:
        # Shifted like an unsigned number: what the arithmetic shift drags in is cleared.
        shifted = (words >> first) & ((1 << (BITS_PER_WORD - first)) - 1)
        shifted[:-1] |= words[1:] << (BITS_PER_WORD - first)
        words = shifted[: word_count(count)]
    if used := count % BITS_PER_WORD:
        kept = words[-1] & ((1 << used) - 1)
        if kept != words[-1]:
            words = words.clone()
            words[-1] = kept
    return words
