"""What a structure says in words, with the published value beside each number. Nothing is claimed that is not shown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from monitor.analysis.structure import published
from monitor.analysis.structure.measured import MatrixStructure, Structure, rank_share
from monitor.analysis.structure.profiles import Lines, lines_of_stripes
from monitor.analysis.structure.spectrum import TOP, Method
from monitor.analysis.structure.sums import TOP_COORDINATES
from monitor.observe.criterion import dtype_name
from monitor.verdict import percent


class Agreement(StrEnum):
    """How a finding stands to what was published."""

    AS_PUBLISHED = "as published"
    OTHERWISE = "not as published"
    NO_VALUE = "no published value"
    UNKNOWN = "cannot be said"


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        topic: what it is about, in a few words.
        text: one or more sentences.
    """

    topic: str
    text: str
    agreement: Agreement


# From these on, what is found is called by its name. Our own choice: the sources give figures and pictures.
_FULL_RANK = 0.9
_TIMES_EVEN = 2.0
_STRIPED = 2.0
_MANY_OF_ALL = 0.1
_LIFT = 0.05
# Of the dispersion under chance: more than so many standard deviations are no chance.
_NO_CHANCE = 3.0


def findings_of(structure: Structure) -> Iterator[Finding]:
    """Yield what was found, the most general first."""
    yield from _not_finite(structure)
    if not structure.sums.weights:
        yield Finding("weights", "Nothing was measured.", Agreement.UNKNOWN)
        return
    yield _sparsity(structure)
    if not structure.sums.changed:
        return
    yield _size(structure)
    yield _steps(structure)
    yield _coordinates(structure)
    if structure.matrices:
        yield _rank(structure)
        yield _smallest(structure)
        yield _principal(structure)
        yield from _stripes(structure)


def _not_finite(structure: Structure) -> Iterator[Finding]:
    sums = structure.sums
    if sums.without_size:
        text = (
            f"{_count(sums.without_size, 'weight')} {'differs' if sums.without_size == 1 else 'differ'} by NaN or "
            "infinity: changed, and left out of every norm, spectrum and histogram. What is said of those is of the "
            "others."
        )
        yield Finding("not finite", text, Agreement.UNKNOWN)
    if sums.base_non_finite:
        text = (
            f"{_count(sums.base_non_finite, 'weight')} of the base are NaN or infinite, and are left out of its norm."
        )
        yield Finding("not finite", text, Agreement.UNKNOWN)


def _sparsity(structure: Structure) -> Finding:
    settings, sums = structure.settings, structure.sums
    measured = f"{settings.criterion} in {dtype_name(settings.visible_dtype)}"
    if not sums.changed:
        return Finding("sparsity", f"No visible weight differs from the base ({measured}).", Agreement.UNKNOWN)
    sparsity = 1 - sums.density
    text = (
        f"{percent(sparsity)} of {sums.weights:,} visible weights equal the base, {sums.changed:,} changed (cumulative "
        f"sparsity, {measured})."
    )
    ranges = published.unchanged(settings.criterion, settings.visible_dtype)
    if not ranges:
        return Finding("sparsity", f"{text} Nothing comparable is published.", Agreement.NO_VALUE)
    within = [each for each in ranges if each.holds(sparsity)]
    if within:
        return Finding("sparsity", f"{text} Published: {' and '.join(map(str, within))}.", Agreement.AS_PUBLISHED)
    return Finding("sparsity", f"{text} Outside what is published: {'; '.join(map(str, ranges))}.", Agreement.OTHERWISE)


def _size(structure: Structure) -> Finding:
    norm = structure.sums.relative_norm
    text = f"The norm of the update is {_small_percent(norm)} of that of the base (‖Δ‖ ÷ ‖θ₀‖)."
    online, offline = published.RELATIVE_NORM, published.RELATIVE_NORM_OFFLINE
    if math.isnan(norm):
        return Finding("size", "The base is zero: there is no relative norm.", Agreement.UNKNOWN)
    agreement = Agreement.AS_PUBLISHED if online.lowest <= norm <= online.highest else Agreement.OTHERWISE
    return Finding("size", f"{text} Published: {online}; {offline}.", agreement)


def _steps(structure: Structure) -> Finding:
    steps = structure.sums.steps
    moved = int(steps.sum())
    dtype = dtype_name(structure.settings.visible_dtype)
    if not moved:
        return Finding("steps", "No finite weight moved by a representable step.", Agreement.UNKNOWN)
    text = (
        f"{percent(int(steps[0]) / moved)} of the weights that moved did so by one representable step of {dtype}, "
        f"{percent(int(steps[:3].sum()) / moved)} by less than 8. No such share is published; a weight moves visibly "
        "from half a step on (arXiv 2602.03839)."
    )
    return Finding("steps", text, Agreement.NO_VALUE)


def _coordinates(structure: Structure) -> Finding:
    shares = structure.sums.top_shares
    if math.isnan(shares[0]):
        return Finding("coordinates", "Δ is zero where it is finite.", Agreement.UNKNOWN)
    pairs = zip(TOP_COORDINATES, shares, strict=True)
    held = ", ".join(f"{percent(share)} in the top {100 * top:g} %" for top, share in pairs)
    text = f"Of each matrix, the coordinates that moved furthest hold the energy: {held}. No figure is published."
    return Finding("coordinates", text, Agreement.NO_VALUE)


def _rank(structure: Structure) -> Finding:
    moved = [matrix for matrix in structure.matrices if matrix.sums.energy]
    rank, top = structure.mean(rank_share), structure.mean(lambda matrix: matrix.spectrum.top_share)
    if not moved:
        return Finding("rank", "No matrix has a finite update: there is no rank to speak of.", Agreement.UNKNOWN)
    even = structure.mean(lambda matrix: min(1.0, TOP / matrix.spectrum.full_rank))
    energy = (
        f"the {TOP} largest singular values hold {percent(top)} of the energy (published {published.TOP_16}); "
        f"{TOP} of equal ones would hold {percent(even)}"
    )
    if math.isnan(rank):
        text = f"No matrix was small enough for all singular values, so that no rank is known; {energy}."
        return Finding("rank", text, Agreement.UNKNOWN)
    full, concentrated = rank >= _FULL_RANK, top >= _TIMES_EVEN * even
    text = (
        f"Updates are {'not low-rank' if full else 'of low rank'}: rank {percent(rank)} of the maximum (published "
        f"{published.RANK}), and {'yet ' * (full and concentrated)}{energy}.{_unchanged_matrices(structure)}"
    )
    if even > _MANY_OF_ALL:
        text += f" Of matrices as small as these, {TOP} singular values say little: the published ones have thousands."
        return Finding("rank", text, Agreement.UNKNOWN)
    return Finding("rank", text, Agreement.AS_PUBLISHED if full and concentrated else Agreement.OTHERWISE)


def _unchanged_matrices(structure: Structure) -> str:
    still = sum(not matrix.sums.energy for matrix in structure.matrices)
    if not still:
        return ""
    return f" Of rank 0, as nothing in them changed by a size: {still:,} of {len(structure.matrices):,} matrices."


def _smallest(structure: Structure) -> Finding:
    overlap, alpha = structure.smallest, structure.settings.share
    text = (
        f"{percent(overlap.o1)} of the changed weights lie among the {100 * alpha:g} % of smallest magnitude of their "
        f"matrix, {overlap.lift:.2f} times what chance gives, and {percent(structure.largest.o1)} among the "
        f"{100 * alpha:g} % of largest, {structure.largest.lift:.2f} times."
    )
    return Finding("magnitude", *_enrichment(structure, text, overlap.lift, published.SMALLEST, above=True))


def _principal(structure: Structure) -> Finding:
    overlap, settings = structure.principal, structure.settings
    text = (
        f"{percent(overlap.o1)} of the changed weights are principal ones (the {100 * settings.share:g} % largest of "
        f"the base at {100 * settings.principal_rank:g} % of its rank), {overlap.lift:.2f} times what chance gives."
    )
    return Finding("principal weights", *_enrichment(structure, text, overlap.lift, published.PRINCIPAL, above=False))


def _enrichment(
    structure: Structure, text: str, lift: float, values: published.Range, *, above: bool
) -> tuple[str, Agreement]:
    """Return text and agreement of a lift, which RL has above or below chance (arXiv 2511.08567)."""
    if math.isnan(lift):
        return "No weight of a matrix changed, or too few are marked in matrices as small as these.", Agreement.UNKNOWN
    side = "above" if above else "below"
    figures = f"; {values}" if structure.settings.share == 0.1 else ""
    shown = lift > 1 + _LIFT if above else lift < 1 - _LIFT
    agreement = Agreement.AS_PUBLISHED if shown else Agreement.OTHERWISE
    return f"{text} Published: {side} chance for RL (arXiv 2511.08567){figures}.", agreement


def _stripes(structure: Structure) -> Iterator[Finding]:
    for lines, modules in ((Lines.ROWS, "Q, K and V"), (Lines.COLUMNS, "O")):
        matrices = [matrix for matrix in structure.matrices if lines_of_stripes(matrix.group.module) is lines]
        along, across = (_median_dispersion(matrices, each) for each in (lines, _other(lines)))
        if math.isnan(along):
            continue
        chance = 1 + _NO_CHANCE * median(matrix.along(lines).chance_deviation for matrix in matrices)
        how = "gather" if along >= _STRIPED else "gather a little" if along > chance else "do not gather"
        count = _count(len(matrices), "matrix", "matrices")
        text = (
            f"Changed weights {how} in {lines} of {modules}: the share that "
            f"changed varies {_times(along)} times as much among the {lines} as by chance, among the {_other(lines)} "
            f"{_times(across)} times (variance ÷ binomial variance, median over {count}). "
            "Published: stripes, without a figure (arXiv 2511.08567)."
        )
        agreement = {"gather": Agreement.AS_PUBLISHED, "do not gather": Agreement.OTHERWISE}
        yield Finding("stripes", text, agreement.get(how, Agreement.UNKNOWN))


def _median_dispersion(matrices: list[MatrixStructure], lines: Lines) -> float:
    values = [each for matrix in matrices if not math.isnan(each := matrix.along(lines).dispersion)]
    return median(values) if values else math.nan


def _other(lines: Lines) -> Lines:
    return Lines.COLUMNS if lines is Lines.ROWS else Lines.ROWS


def methods(structure: Structure) -> str:
    """Return how spectra and principal weights were computed, as sentences."""
    whole = sum(matrix.spectrum.method is Method.WHOLE for matrix in structure.matrices)
    base = sum(matrix.principal_method is Method.WHOLE for matrix in structure.matrices)
    count = len(structure.matrices)
    return (
        f"All singular values of Δ for {_count(whole, 'matrix', 'matrices')}, the {TOP} largest by a randomised method "
        f"(seeded, lower bounds) for {count - whole:,}; principal weights from the whole decomposition of the base for "
        f"{base:,}, from a randomised one for {count - base:,}."
    )


def _times(factor: float) -> str:
    return f"{factor:.2f}" if factor < 10 else f"{factor:.3g}"


def _small_percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
