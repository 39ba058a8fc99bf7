"""What is published of overlaps between runs, for beside the results."""

from __future__ import annotations

from typing import NamedTuple


class PublishedOverlap(NamedTuple):
    """The overlap of two published runs, in percent.

    Attributes:
        varied: what the two runs did not have in common.
        chance_o1, chance_o2: densities of the second and of the first mask.
        o1, o2: observed.
    """

    varied: str
    chance_o1: float
    chance_o2: float
    o1: float
    o2: float


class PublishedJaccard(NamedTuple):
    """The mean Jaccard between published runs in one kind of matrix, and what chance gives, from 0 to 1."""

    module: str
    observed: float
    chance: float


OVERLAPS_SOURCE = "arXiv 2505.11711 (RL, atol=1e-05/bfloat16)"
OVERLAPS = (
    PublishedOverlap("seed", 36.7, 36.7, 60.5, 60.6),
    PublishedOverlap("data", 14.6, 36.7, 26.7, 67.1),
    PublishedOverlap("seed, data and algorithm", 23.0, 12.9, 59.1, 33.2),
)

JACCARDS_SOURCE = "arXiv 2511.08567 (RL, bits/bfloat16)"
JACCARDS = (
    PublishedJaccard("Q", 0.580, 0.430),
    PublishedJaccard("K", 0.580, 0.413),
    PublishedJaccard("V", 0.597, 0.467),
    PublishedJaccard("O", 0.552, 0.373),
    PublishedJaccard("gate", 0.575, 0.437),
    PublishedJaccard("up", 0.578, 0.443),
    PublishedJaccard("down", 0.585, 0.453),
)

_O1 = ", ".join(f"other {row.varied} {row.o1} % ({row.chance_o1} %)" for row in OVERLAPS)
_JACCARD = ", ".join(f"{row.module} {100 * row.observed:g} % ({100 * row.chance:g} %)" for row in JACCARDS)

PUBLISHED = (
    f"Published o₁ (by chance), {OVERLAPS_SOURCE}: {_O1}.",
    f"Published Jaccard (by chance), {JACCARDS_SOURCE}: {_JACCARD}.",
)

CAVEAT = (
    "Overlap tells where the optimizer went, not which weights are needed: training the subnetwork alone recovers the "
    "model in arXiv 2505.11711, yet random masks of 1 % do as well as full RL in arXiv 2602.01599, and those that "
    "succeed overlap no more than chance."
)
