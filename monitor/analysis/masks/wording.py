"""What is said of a comparison in the terminal and in the report alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from monitor.analysis.masks.comparison import Compared, Comparison
from monitor.analysis.masks.overlap import Chance
from monitor.observe.masks.file import MaskMetadata
from monitor.percent import percent

NOTHING = "–"
"""Stands for what cannot be divided."""

ABOUT_SCORES = "The lift says how far from chance; the z-score says whether, and grows with the number of weights."


def share(value: float) -> str:
    """Return a share from 0 to 1 as a percentage.

    >>> share(0.605), share(math.nan)
    ('60.50 %', '–')
    """
    return NOTHING if math.isnan(value) else percent(value)


def number(value: float, decimals: int = 2) -> str:
    """Return a number that may be NaN.

    >>> number(1.648), number(12345.6, 1), number(-0.01, 1)
    ('1.65', '12,345.6', '0.0')
    """
    # Added, 0 takes the sign from −0.
    return NOTHING if math.isnan(value) else f"{round(value, decimals) + 0.0:,.{decimals}f}"


def measured_as(metadata: MaskMetadata) -> str:
    """Return what a density of a mask has to be named with.

    >>> measured_as(MaskMetadata("bits", "bfloat16")), measured_as(MaskMetadata())
    ('bits/bfloat16', 'criterion not stated')
    """
    if not metadata.criterion:
        return "criterion not stated"
    return "/".join(filter(None, (metadata.criterion, metadata.visible_dtype)))


def about_overlap(compared: Compared, a: str = "A", b: str = "B") -> Iterator[tuple[str, str, str, str]]:
    """Yield what is said, the observed value, what chance gives anywhere, and what it gives by matrix."""
    counts = compared.overlap.counts
    rows: Sequence[tuple[str, str, Callable[[Chance], str]]] = (
        (f"o₁ = |{a}∩{b}| / |{a}|", share(counts.o1), lambda chance: share(chance.o1)),
        (f"o₂ = |{a}∩{b}| / |{b}|", share(counts.o2), lambda chance: share(chance.o2)),
        (f"Jaccard = |{a}∩{b}| / |{a}∪{b}|", share(counts.jaccard), lambda chance: share(chance.jaccard)),
        (f"|{a}∩{b}|", f"{counts.intersection:,}", lambda chance: number(chance.expected, 0)),
        ("lift = observed / chance", "", lambda chance: number(chance.lift)),
        ("z-score", "", lambda chance: number(chance.z_score, 1)),
    )
    for label, observed, by_chance in rows:
        yield label, observed, by_chance(compared.overlap.whole), by_chance(compared.overlap.by_matrix)


def about_pair(comparison: Comparison, a: int, b: int) -> list[str]:
    """Return sentences about the random control and the updates of a pair, as far as they were asked for."""
    compared = comparison.whole(a, b)
    first, second = comparison.masks.letters[a], comparison.masks.letters[b]
    return [*_about_control(compared, comparison.seed, first, second), *_about_updates(compared, first, second)]


def _about_control(compared: Compared, seed: int | None, first: str, second: str) -> Iterator[str]:
    if compared.control is not None:
        counts, chance = compared.control.counts, compared.control.by_matrix
        yield (
            f"{first} and a random mask as dense as {second} in each matrix (seed {seed}): o₁ {share(counts.o1)}, "
            f"o₂ {share(counts.o2)}, lift {number(chance.lift)}, z-score {number(chance.z_score, 1)}."
        )


def _about_updates(compared: Compared, first: str, second: str) -> Iterator[str]:
    if compared.updates is not None:
        updates = compared.updates
        yield (
            f"Of the {updates.moved_in_both:,} weights that moved in {first} and in {second}, "
            f"{share(updates.sign_agreement)} moved the same way; a coin gives 50 %."
        )
        yield (
            f"Cosine of the updates: {number(updates.cosine, 4)}; in the weights of both masks alone: "
            f"{number(updates.cosine_in_both, 4)}."
        )
        if updates.not_finite:
            yield f"Left out: {updates.not_finite:,} weights, whose update is infinite or NaN."
