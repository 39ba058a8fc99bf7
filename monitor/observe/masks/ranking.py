"""Marks the first k weights of a parameter by some order: exactly k, however the weights are spread over processes.

The order is that of a key, a row of 16-bit digits of which no two weights have the same. The key of the last weight
that is marked is found digit by digit: the processes add up how often each digit occurs among the weights that are not
decided yet. So no process sees weights that it does not hold, and together they mark what one process would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

import torch

from monitor.observe.bits import BITS_PER_WORD, pack, word_count
from monitor.observe.chunk_sizes import PARAMETERS_RANKED, RANKED_ON_CPU, RANKED_ON_GPU
from monitor.observe.ranks import Ranks

_DIGITS = 1 << 16


class Weights:
    """Some weights of a parameter, all on one device.

    Args:
        values: floating point, shape (n,); None where no order asks for them.
        find: returns where they are in the flattened parameter, int64 of shape (n,).
    """

    def __init__(self, values: torch.Tensor | None, find: Callable[[], torch.Tensor]) -> None:
        self.values = values
        self._find = find

    @cached_property
    def indices(self) -> torch.Tensor:
        """Where they are in the flattened parameter, int64 of shape (n,)."""
        # Only where it is asked for: magnitudes decide nearly all without it.
        return self._find()

    def at(self, places: torch.Tensor) -> Weights:
        """Return those of them that have these numbers, int64."""
        return Weights(None if self.values is None else self.values[places], lambda: self.indices[places])


# (number of the digit, from 0 for the most significant one, weights) → digits, int32 of shape (n,).
Key: TypeAlias = Callable[[int, Weights], torch.Tensor]


@dataclass(frozen=True)
class Ranked:
    """What this process has of a parameter, and how many weights of the whole parameter are to be marked.

    Attributes:
        ones: k, of the whole parameter; at most its number of weights.
        count: number of weights here.
        device: where their bits are to be.
        values: returns the weights here, shape (count,), on any device; None where no order asks for them.
        indices: returns where the weights from one up to another are in the flattened parameter, int64, on the device.
        key: what they are ordered by.
    """

    ones: int
    count: int
    device: torch.device
    values: Callable[[], torch.Tensor] | None
    indices: Callable[[int, int], torch.Tensor]
    key: Key

    def chunks(self) -> Iterator[tuple[int, Weights]]:
        """Yield spans of the weights here, each with its first one's number, a multiple of 32."""
        size = RANKED_ON_CPU if self.device.type == "cpu" else RANKED_ON_GPU
        # Once for all chunks: it may have to be made of quantised weights.
        values = self.values() if self.values is not None and self.count else None
        for first in range(0, self.count, size):
            last = min(first + size, self.count)
            some = None if values is None else values[first:last].to(self.device)
            yield first, Weights(some, partial(self.indices, first, last))


def mark_first(parameters: Sequence[Ranked], ranks: Ranks) -> list[torch.Tensor]:
    """Return the words of what this process has of each parameter: ones for the first k weights of the whole one.

    All processes must call it. Where one fails, as for want of memory, all do.
    """
    words = []
    for start in range(0, len(parameters), PARAMETERS_RANKED):
        thresholds = [_Threshold(each) for each in parameters[start : start + PARAMETERS_RANKED]]
        # Which are not found yet depends on sums over all processes alone, and so is the same on each.
        while open_ones := [each for each in thresholds if not each.is_found]:
            counts = ranks.sum_of(partial(_histograms, open_ones)).cpu()
            for each, counted in zip(open_ones, counts, strict=True):
                each.narrow(counted)
        words += ranks.all_or_none(partial(_marks, thresholds))
    return words


def _histograms(thresholds: Sequence[_Threshold]) -> torch.Tensor:
    return torch.stack([each.histogram() for each in thresholds])


def _marks(thresholds: Sequence[_Threshold]) -> list[torch.Tensor]:
    return [each.mark() for each in thresholds]


class _Threshold:
    """The key of the last weight of a parameter that is marked.

    Attributes:
        is_found: whether as many digits of it are known as it takes to tell which weights are marked.
    """

    def __init__(self, parameter: Ranked) -> None:
        self._parameter = parameter
        self._digits: list[int] = []
        # How many are to be marked of the weights whose keys begin with these digits.
        self._missing = parameter.ones
        self.is_found = not parameter.ones

    def histogram(self) -> torch.Tensor:
        """Return how often each digit comes next in the keys of the undecided weights here, in host memory."""
        counts = torch.zeros(_DIGITS, dtype=torch.int64, device=self._parameter.device)
        # Put together where a chunk has few: a histogram takes as long as it has bins.
        held, size = [torch.zeros(0, dtype=torch.int32, device=counts.device)], 0
        for _, weights in self._parameter.chunks():
            held.append(self._parameter.key(len(self._digits), self._undecided(weights)))
            size += held[-1].numel()
            if size >= _DIGITS:
                counts += torch.bincount(torch.cat(held), minlength=_DIGITS)
                held, size = held[:1], 0
        return (counts + torch.bincount(torch.cat(held), minlength=_DIGITS)).cpu()

    def _undecided(self, weights: Weights) -> Weights:
        for number, bound in enumerate(self._digits):
            weights = weights.at(_places(self._parameter.key(number, weights) == bound))
        return weights

    def narrow(self, counts: torch.Tensor) -> None:
        """Add the next digit, from the histogram of all processes."""
        up_to = counts.cumsum(0)
        digit = int(torch.searchsorted(up_to, self._missing))
        self._missing -= int(up_to[digit] - counts[digit])
        self._digits.append(digit)
        self.is_found = self._missing == int(counts[digit])

    def mark(self) -> torch.Tensor:
        """Return the words of the weights here."""
        parameter = self._parameter
        words = torch.zeros(word_count(parameter.count), dtype=torch.int32, device=parameter.device)
        for first, weights in parameter.chunks() if parameter.ones else ():
            packed = pack(self._marks(weights))
            words[first // BITS_PER_WORD :][: packed.numel()] = packed
        return words

    def _marks(self, weights: Weights, number: int = 0) -> torch.Tensor:
        """Return which are marked of weights whose keys have the first `number` digits of the threshold; boolean."""
        digits, bound = self._parameter.key(number, weights), self._digits[number]
        if number + 1 == len(self._digits):
            return digits <= bound
        marked = digits < bound
        same = _places(digits == bound)
        marked[same] = self._marks(weights.at(same), number + 1)
        return marked


def _places(chosen: torch.Tensor) -> torch.Tensor:
    return chosen.nonzero().view(-1)
