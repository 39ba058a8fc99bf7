"""Which weights of a parameter are measured by this process, and where they live."""

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
class MeasuredWeights:
    """A consecutive run of the weights of a block of a parameter, in row-major order.

    One process measures all weights of a parameter. Among several, each has a block of it, or shares one.

    Attributes:
        name: clean name of the parameter.
        held: returns the tensor that holds the weights on this process. Called anew at every observation, since
            wrappers exchange the storage of a parameter (`parameter.data = …`).
        shape: shape of the whole parameter.
        box: the block that the weights are from.
        start, stop: the run within the flattened block.
        first_held: index within the flattened block of the first weight that `held()` has.
        effective: computes the whole parameter from what `held()` has and from adapters, a new tensor at each call.
        original: the frozen parameter that this one started from, where the model holds it anyway.
        dequantised: computes what this one started from, where the model holds that quantised.
    """

    name: str
    held: Callable[[], torch.Tensor]
    shape: tuple[int, ...]
    box: Box
    start: int
    stop: int
    first_held: int = 0
    effective: Callable[[], torch.Tensor] | None = None
    original: torch.Tensor | None = None
    dequantised: Callable[[], torch.Tensor] | None = None

    @property
    def source(self) -> torch.Tensor:
        """The tensor that holds the weights on this process."""
        return self.held()

    @property
    def count(self) -> int:
        """Number of weights."""
        return self.stop - self.start

    def live(self) -> torch.Tensor:
        """Return the weights as they are now, any shape and strides, `count` elements.

        Without a copy, unless adapters make them.
        """
        if self.effective is not None and self.count:
            return self.effective()
        weights = self.source.detach()
        return weights if self.count == weights.numel() else self._run_of(weights)

    def _run_of(self, held: torch.Tensor) -> torch.Tensor:
        return held.view(-1)[self.start - self.first_held : self.stop - self.first_held]

    def of_twin(self, twin: torch.Tensor) -> torch.Tensor:
        """Return the same weights of a tensor that is laid out like `held()`, without a copy; shape (count,)."""
        return twin.detach().reshape(-1)[self.start - self.first_held : self.stop - self.first_held]

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

    def indices(self, first: int, last: int) -> torch.Tensor:
        """Return where the weights from `first` to `last` of the run are in the flattened parameter; int64."""
        local = torch.arange(self.start + first, self.start + last, device=self.source.device)
        if self._is_run_of_whole:
            return local
        index = torch.zeros_like(local)
        stride, rest = 1, local
        for (low, high), size in zip(reversed(self.box), reversed(self.shape), strict=True):
            index += (rest % (high - low) + low) * stride
            rest = rest // (high - low)
            stride *= size
        return index
