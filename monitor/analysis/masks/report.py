"""The comparison of masks as one page with plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monitor.analysis.html import COLORS, Report
from monitor.analysis.masks.comparison import Compared, Comparison
from monitor.analysis.masks.published import (
    CAVEAT,
    JACCARDS,
    JACCARDS_SOURCE,
    OVERLAPS,
    OVERLAPS_SOURCE,
)
from monitor.analysis.masks.wording import ABOUT_SCORES, about_overlap, about_pair, measured_as, number, share
from monitor.observe.observation import FloatArray
from monitor.observe.overlap import ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Not quite black: what is black follows the page, which may be dark, and the fields of the plot do not.
_DARK, _LIGHT = "#111111", "#ffffff"
_INCHES_PER_ROW = 0.45


def write_report(path: Path, comparison: Comparison) -> None:
    """Write the page; it appears under `path` only when it is complete.

    Raises:
        OSError: it cannot be written.
    """
    report = Report("Overlap of update masks")
    report.paragraph(CAVEAT)
    _add_masks(report, comparison)
    if len(comparison.masks.files) > 2:
        _add_matrices(report, comparison)
    for a, b in comparison.pairs:
        _add_pair(report, comparison, a, b)
    _add_published(report)
    _add_definitions(report)
    report.write(path)


def _add_masks(report: Report, comparison: Comparison) -> None:
    report.heading("Masks")
    rows = []
    for position, (letter, file) in enumerate(zip(comparison.masks.letters, comparison.masks.files, strict=True)):
        density, said = comparison.density(position, comparison.everywhere), file.metadata
        counts = (f"{density.ones:,}", f"{density.weights:,}", share(density.share))
        rows.append(
            (letter, comparison.masks.paths[position], measured_as(said), said.run_id, said.step or "", *counts)
        )
    report.table(["mask", "file", "measured by", "run", "step", "ones", "weights", "density"], rows)
    for warning in comparison.masks.warnings:
        report.paragraph(f"Note: {warning}.")


def _add_matrices(report: Report, comparison: Comparison) -> None:
    report.heading("All masks")
    shares = _matrix(comparison, lambda compared: compared.overlap.counts.o1)
    np.fill_diagonal(shares, 1.0)
    _plot_matrix(report, comparison, shares, share, "o₁: share of the weights in a row's mask that are in a column's")
    lifts = _matrix(comparison, lambda compared: compared.overlap.by_matrix.lift)
    _plot_matrix(report, comparison, lifts, number, "Lift, observed ÷ chance by matrix; 1 is chance")
    rows = []
    for a, b in comparison.pairs:
        counts, chance = comparison.whole(a, b).overlap.counts, comparison.whole(a, b).overlap.by_matrix
        shares_of_pair = map(share, (counts.o1, chance.o1, counts.o2, chance.o2, counts.jaccard, chance.jaccard))
        scores = (number(chance.lift), number(chance.z_score, 1))
        rows.append((comparison.masks.letters[a], comparison.masks.letters[b], *shares_of_pair, *scores))
    columns = ["A", "B", "o₁", "by chance", "o₂", "by chance", "Jaccard", "by chance", "lift", "z-score"]
    report.table(columns, rows, "Each two masks; chance, lift and z-score by matrix")


def _matrix(comparison: Comparison, value: Callable[[Compared], float]) -> FloatArray:
    size = len(comparison.masks.files)
    values = np.full((size, size), np.nan)
    for a, b in comparison.pairs:
        values[a, b], values[b, a] = value(comparison.whole(a, b)), value(comparison.whole(b, a))
    return values


def _plot_matrix(
    report: Report, comparison: Comparison, values: FloatArray, written: Callable[[float], str], caption: str
) -> None:
    letters = comparison.masks.letters
    with report.plot(caption, height=1.2 + _INCHES_PER_ROW * len(letters)) as axes:
        highest = max(1.0, np.nanmax(values, initial=0.0))
        fields = np.ma.masked_invalid(values)
        axes.pcolormesh(fields, vmin=0.0, vmax=highest, cmap="viridis", edgecolors="face")
        for (row, column), value in np.ndenumerate(values):
            color = _DARK if value > 0.6 * highest else _LIGHT
            axes.text(
                column + 0.5,
                row + 0.5,
                written(value),
                ha="center",
                va="center",
                color="black" if np.isnan(value) else color,
            )
        axes.set_xticks(np.arange(len(letters)) + 0.5, letters)
        axes.set_yticks(np.arange(len(letters)) + 0.5, letters)
        axes.invert_yaxis()
        axes.set_xlabel("in which mask they lie")
        axes.set_ylabel("whose weights")


def _add_pair(report: Report, comparison: Comparison, a: int, b: int) -> None:
    first, second = comparison.masks.letters[a], comparison.masks.letters[b]
    report.heading(f"{first} and {second}")
    columns = ["", "observed", "chance, anywhere", "chance, by matrix"]
    report.table(columns, list(about_overlap(comparison.whole(a, b), first, second)))
    for sentence in about_pair(comparison, a, b):
        report.paragraph(sentence)
    layers = comparison.layers(a, b)
    with report.plot(f"o₁ by layer, the share of {first} that lies in {second}") as axes:
        _plot_layers(axes, layers)
    _add_parts(report, "layer", (first, second), layers)
    _add_parts(report, "module", (first, second), comparison.modules(a, b))


def _plot_layers(axes: Axes, layers: Mapping[str, Compared]) -> None:
    places = range(len(layers))
    observed = [100 * each.overlap.counts.o1 for each in layers.values()]
    chance = [100 * each.overlap.by_matrix.o1 for each in layers.values()]
    axes.plot(places, observed, "o-", color=COLORS[0], label="observed")
    axes.plot(places, chance, "o--", color=COLORS[1], label="by chance, by matrix")
    every = max(1, len(layers) // 16)
    axes.set_xticks(places[::every], list(layers)[::every])
    axes.set_ylim(0, 100)
    axes.set_xlabel("layer")
    axes.set_ylabel("o₁, %")
    axes.legend(frameon=False)


def _add_parts(report: Report, title: str, letters: tuple[str, str], parts: Mapping[str, Compared]) -> None:
    rows = []
    for label, compared in parts.items():
        counts, chance = compared.overlap.counts, compared.overlap.by_matrix
        densities = (ratio(ones, counts.weights) for ones in (counts.changed, counts.reference))
        shares = map(share, (*densities, counts.o1, chance.o1, counts.o2, chance.o2, counts.jaccard))
        rows.append((label, f"{counts.weights:,}", *shares, number(chance.lift), number(chance.z_score, 1)))
    columns = [title, "weights", *letters, "o₁", "by chance", "o₂", "by chance", "Jaccard", "lift", "z-score"]
    first, second = letters
    report.table(columns, rows, f"By {title}; {first} and {second}: densities; chance, lift and z-score by matrix")


def _add_published(report: Report) -> None:
    report.heading("Published beside it")
    rows = [(row.varied, f"{row.o1} %", f"{row.chance_o1} %", f"{row.o2} %", f"{row.chance_o2} %") for row in OVERLAPS]
    report.table(["what the two runs differ in", "o₁", "by chance", "o₂", "by chance"], rows, OVERLAPS_SOURCE)
    jaccards = [(row.module, share(row.observed), share(row.chance)) for row in JACCARDS]
    report.table(["matrices", "Jaccard", "by chance"], jaccards, JACCARDS_SOURCE)


def _add_definitions(report: Report) -> None:
    report.heading("What the numbers are")
    for text in (
        "o₁ = |A∩B| / |A|, o₂ = |A∩B| / |B|, Jaccard = |A∩B| / |A∪B|, lift = observed ÷ expected |A∩B|.",
        "Chance draws |A| of n weights without replacement, of which |B| are in the other mask (hypergeometric): "
        "anywhere, of all weights at once; by matrix, in each matrix on its own, so that two masks which prefer the "
        "same matrices do not stand out for it. z-score = (observed − expected) ÷ standard deviation; variances of "
        "matrices add up.",
        ABOUT_SCORES,
    ):
        report.paragraph(text)
