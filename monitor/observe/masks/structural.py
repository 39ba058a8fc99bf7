"""Structural reference masks: made of the base itself, by a rule that is written as text.

"lowest:0.1" has the 10 % of smallest magnitude of each parameter, "random:0.1" as many anywhere, as the control.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import partial

import torch

from monitor.errors import ConfigurationError, shown
from monitor.observe.base.weights import BaseWeights
from monitor.observe.criterion import visible
from monitor.observe.masks.ranking import Key, Ranked, Weights, mark_first
from monitor.observe.ranks import Alone, Ranks
from monitor.observe.weights.measured import MeasuredWeights

_DIGIT_BITS = 16
_DIGIT = (1 << _DIGIT_BITS) - 1
# splitmix64 (Steele, Lea, Flood 2014), whose numbers torch wants signed.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


class Kind(StrEnum):
    """What decides which weights a structural mask has."""

    LOWEST = "lowest"
    RANDOM = "random"


@dataclass(frozen=True)
class StructuralMask:
    """Exactly ⌊q·n⌋ weights of each parameter of n weights, frozen ones included.

    LOWEST: those of smallest |b(θ₀)|, where b rounds to the visible dtype. −0 is 0, and NaN is the largest. Of equal
    magnitudes those come first whose pseudo-random numbers are smaller.
    RANDOM: those whose pseudo-random numbers are smallest, of whatever value.

    The pseudo-random number of a weight follows from the kind, the parameter's name and the weight's place in it. So
    the same base has the same mask on every device, however it is spread over processes, and when it is read again; and
    the mask of a smaller share lies within that of a larger one.

    Attributes:
        kind: which weights.
        share: q, above 0 and up to 1, taken as the decimal number that it is written as.
    """

    kind: Kind
    share: float

    @classmethod
    def parse(cls, text: str) -> StructuralMask | None:
        """Read "lowest:0.1" or "random:0.1"; None if the text is about something else, such as a path.

        >>> str(StructuralMask.parse("lowest:0.10"))
        'lowest:0.1'

        Raises:
            ConfigurationError: the share is none.
        """
        kind, separator, number = text.partition(":")
        if kind not in list(Kind) or not separator:
            return None
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:
            raise ConfigurationError(
                f"the structural mask {shown(text)} has the share {shown(number)}; expected a number above 0 and up to "
                f'1, such as "{kind}:0.1" for a tenth of each parameter.'
            )
        return cls(Kind(kind), share)

    def __str__(self) -> str:
        return f"{self.kind}:{self.share!r}"

    def ones(self, weights: int) -> int:
        """Return ⌊q·n⌋ for n weights.

        >>> StructuralMask(Kind.LOWEST, 0.1).ones(30)
        3
        """
        # In floating point, a tenth of 30 may be less than 3.
        return math.floor(Fraction(repr(self.share)) * weights)

    def words_of(
        self,
        name: str,
        shape: tuple[int, ...],
        read: Callable[[], torch.Tensor],
        visible_dtype: torch.dtype,
        device: torch.device,
    ) -> torch.Tensor:
        """Return the mask of a whole parameter, int32 of shape (word_count(n),).

        Args:
            name: of the parameter, as the model has it.
            shape: its shape.
            read: returns its base weights; not called where these decide nothing.
            visible_dtype: dtype in which weights are compared.
            device: where the work is done, and where the words are.
        """
        count = math.prod(shape)
        values = read().detach().reshape(-1).to(device) if self.kind is Kind.LOWEST else None
        ranked = Ranked(
            ones=self.ones(count),
            count=count,
            device=device,
            values=None if values is None else lambda: values,
            indices=partial(torch.arange, device=device),
            key=_key(self.kind, name, visible_dtype),
        )
        (words,) = mark_first([ranked], Alone())
        return words


def structural_words(
    mask: StructuralMask,
    measured: Sequence[MeasuredWeights],
    base: BaseWeights,
    visible_dtype: torch.dtype,
    ranks: Ranks,
) -> dict[str, torch.Tensor]:
    """Return parameter name → words of what this process measures of it, where the weights are. All must call it.

    Args:
        mask: which weights are marked.
        measured: what this process measures.
        base: the base of it.
        visible_dtype: dtype in which weights are compared.
        ranks: the processes that train together.
    """
    words = mark_first([_ranked(mask, weights, base, visible_dtype) for weights in measured], ranks)
    return {weights.name: each for weights, each in zip(measured, words, strict=True)}


def _ranked(mask: StructuralMask, weights: MeasuredWeights, base: BaseWeights, visible_dtype: torch.dtype) -> Ranked:
    return Ranked(
        ones=mask.ones(math.prod(weights.shape)),
        count=weights.count,
        device=weights.source.device,
        values=partial(base.of, weights) if mask.kind is Kind.LOWEST else None,
        indices=weights.indices,
        key=_key(mask.kind, weights.name, visible_dtype),
    )


def _key(kind: Kind, name: str, visible_dtype: torch.dtype) -> Key:
    seed = int.from_bytes(hashlib.sha256(f"{kind}:{name}".encode()).digest()[:8], "little", signed=True)
    if kind is Kind.RANDOM:
        return partial(_random_digit, seed)
    return partial(_magnitude_digit, seed, visible_dtype)


def _magnitude_digit(seed: int, visible_dtype: torch.dtype, number: int, weights: Weights) -> torch.Tensor:
    """Return a digit of |b(θ₀)|, and after its last one a digit of the pseudo-random number."""
    digits = 8 * visible_dtype.itemsize // _DIGIT_BITS
    if number >= digits or weights.values is None:
        return _random_digit(seed, number - digits, weights)
    return (_magnitude(visible(weights.values, visible_dtype)) >> _DIGIT_BITS * (digits - 1 - number)) & _DIGIT


def _magnitude(weights: torch.Tensor) -> torch.Tensor:
    """Return numbers in the order of the magnitudes, int32: their bit patterns without the sign, one for all NaN."""
    kind = torch.int16 if weights.element_size() == 2 else torch.int32
    infinity = int(torch.tensor(math.inf, dtype=weights.dtype).view(kind))
    # Devices make different NaN when they round one.
    return (weights.view(kind) & torch.iinfo(kind).max).clamp(max=infinity + 1).int()


def _random_digit(seed: int, number: int, weights: Weights) -> torch.Tensor:
    return ((_pseudo_random(weights.indices, seed) >> _DIGIT_BITS * (3 - number)) & _DIGIT).int()


def _pseudo_random(indices: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the 64 bits that splitmix64 gives from a seed at each index: another for each index."""
    bits = (indices + 1) * _GAMMA + seed
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Shift like an unsigned number: what the arithmetic shift drags in is cleared."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
