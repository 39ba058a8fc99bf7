"""Masks that were counted: each one, and each pair, as a whole, by layer and by module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from monitor.analysis.masks.counts import MaskCounts
from monitor.analysis.masks.fitting import FittingMasks
from monitor.analysis.masks.overlap import MaskOverlap, control_overlap, pair_overlap
from monitor.analysis.masks.parts import Parts
from monitor.analysis.masks.updates import UpdateAgreement, UpdateSums
from monitor.observe.overlap import ratio


@dataclass(frozen=True)
class Compared:
    """What is known of two masks in some parameters.

    Attributes:
        overlap: how far they coincide.
        control: the same of A and a random mask as dense as B in each matrix; None where none was asked for.
        updates: whether they went the same way; None where no weights were given.
    """

    overlap: MaskOverlap
    control: MaskOverlap | None
    updates: UpdateAgreement | None


@dataclass(frozen=True)
class Density:
    """How many of some weights are in a mask."""

    weights: int
    ones: int

    @property
    def share(self) -> float:
        """Ones ÷ weights, 0 to 1; NaN where there are no weights."""
        return ratio(self.ones, self.weights)


@dataclass(frozen=True)
class Comparison:
    """Masks that were counted, one or more.

    Attributes:
        masks: the files.
        counts: ones of each mask, and of each two.
        seed: of the random control; None without one.
        sums: of the updates; None where no weights were given.
    """

    masks: FittingMasks
    counts: MaskCounts
    seed: int | None
    sums: UpdateSums | None

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """Positions of each two masks."""
        return combinations(range(len(self.masks.files)), 2)

    @property
    def everywhere(self) -> range:
        """Positions of all parameters."""
        return range(len(self.masks.shapes))

    def whole(self, a: int, b: int) -> Compared:
        """Compare two masks over all parameters."""
        return self._over(a, b, self.everywhere)

    def layers(self, a: int, b: int) -> dict[str, Compared]:
        """Compare two masks in each layer."""
        return self._by(a, b, self.parts.layers)

    def modules(self, a: int, b: int) -> dict[str, Compared]:
        """Compare two masks in each module, over all layers."""
        return self._by(a, b, self.parts.modules)

    @property
    def parts(self) -> Parts:
        """Layers and modules, with the positions of their parameters."""
        return Parts.of(self.masks.shapes)

    def density(self, mask: int, parameters: Sequence[int]) -> Density:
        """Return how dense a mask is in the parameters at some positions."""
        chosen = list(parameters)
        weights = list(self.counts.weights.values())
        return Density(sum(weights[each] for each in chosen), int(self.counts.ones[chosen, mask].sum()))

    def _by(self, a: int, b: int, parts: Mapping[str, Sequence[int]]) -> dict[str, Compared]:
        return {label: self._over(a, b, positions) for label, positions in parts.items()}

    def _over(self, a: int, b: int, parameters: Sequence[int]) -> Compared:
        return Compared(
            pair_overlap(self.counts, a, b, parameters),
            control_overlap(self.counts, a, b, parameters),
            None if self.sums is None else self.sums.agreement(a, b, parameters),
        )
