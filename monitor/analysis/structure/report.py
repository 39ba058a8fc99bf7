"""A structure as one HTML page: what was found in words, the tables, and what pictures show better."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from monitor.analysis.html import COLORS, Report
from monitor.analysis.structure import tables
from monitor.analysis.structure.findings import findings_of, methods
from monitor.analysis.structure.measured import MatrixStructure, Structure
from monitor.analysis.structure.profiles import Lines
from monitor.analysis.structure.shown import left_out
from monitor.analysis.structure.source import Source
from monitor.analysis.structure.spectrum import TOP


def report_of(structure: Structure, source: Source) -> Report:
    """Write the page of an update."""
    report = Report(f"Structure of the update from {source.base} to {source.finetuned}")
    for finding in findings_of(structure):
        report.heading(f"{finding.topic[:1].upper()}{finding.topic[1:]}: {finding.agreement}", level=3)
        report.paragraph(finding.text)
    _table(report, tables.total(structure))
    if structure.matrices:
        _by_layer(report, structure, f"energy in the {TOP} largest σ", lambda matrix: matrix.spectrum.top_share)
        _by_layer(report, structure, "cumulative density", lambda matrix: matrix.sums.density)
        _by_layer(report, structure, "lift among the smallest weights", lambda matrix: matrix.smallest.lift)
        _table(report, tables.by_module(structure))
        _stripes(report, structure)
    _steps(report, structure)
    _table(report, tables.by_matrix(structure))
    for line in (methods(structure), *left_out(structure, source)):
        report.paragraph(line)
    return report


def _table(report: Report, table: tables.Table) -> None:
    if table.rows:
        report.heading(table.title)
        report.table(table.columns, table.rows, table.note)


def _by_layer(report: Report, structure: Structure, what: str, value: Callable[[MatrixStructure], float]) -> None:
    """Plot a value over the layers, one line per module; experts of a layer are averaged."""
    found: dict[str, dict[int, list[float]]] = {}
    for matrix in structure.matrices:
        if matrix.group.layer is not None and not math.isnan(each := value(matrix)):
            found.setdefault(matrix.group.module, {}).setdefault(matrix.group.layer, []).append(each)
    if not found:
        return
    with report.plot(f"{what[:1].upper()}{what[1:]}, by layer and module.") as axes:
        for place, (module, layers) in enumerate(found.items()):
            means = [float(np.mean(layers[layer])) for layer in sorted(layers)]
            style = ("-", "--", ":")[place // len(COLORS) % 3]
            axes.plot(sorted(layers), means, style, marker=".", color=COLORS[place % len(COLORS)], label=module)
        axes.set_xlabel("layer")
        axes.set_ylabel(what)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


def _stripes(report: Report, structure: Structure) -> None:
    """Plot the profiles of the matrix that is most striped, beside what chance has."""
    striped = [matrix for matrix in structure.matrices if not math.isnan(matrix.rows.dispersion)]
    if not striped:
        return
    matrix = max(striped, key=lambda each: max(each.rows.dispersion, np.nan_to_num(each.columns.dispersion)))
    report.heading("Rows and columns of the most striped matrix")
    for lines in Lines:
        profile = matrix.along(lines)
        mean, deviation = float(profile.ratios.mean()), math.sqrt(profile.binomial_variance)
        caption = (
            f"{matrix.name}, {lines}: the share of each that changed, in ascending order. By chance, all but one in "
            f"twenty lie in the band. Variance ÷ binomial variance: {profile.dispersion:.3g}."
        )
        with report.plot(caption, height=2.2) as axes:
            axes.axhspan(mean - 2 * deviation, mean + 2 * deviation, color=COLORS[4], alpha=0.3, linewidth=0)
            axes.plot(_thinned(np.sort(profile.ratios)), color=COLORS[0])
            axes.set_xlabel(f"{lines}, in percent")
            axes.set_ylabel("share that changed")


def _thinned(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return 101 quantiles: a page with a point per line of a vocabulary would be large."""
    quantiles: np.ndarray[tuple[int], np.dtype[np.float64]] = np.quantile(values, np.linspace(0, 1, 101))
    return quantiles


def _steps(report: Report, structure: Structure) -> None:
    table = tables.steps(structure)
    if not table.rows:
        return
    _table(report, table)
    counts = structure.sums.steps
    last = int(np.flatnonzero(counts).max()) + 1
    with report.plot(
        "Weights that moved by so many representable steps, from each power of two up to the next."
    ) as axes:
        axes.bar([f"{2**bucket:,}" for bucket in range(last)], counts[:last], color=COLORS[0])
        axes.set_yscale("log")
        axes.set_xlabel("representable steps, from")
        axes.set_ylabel("weights")
        axes.tick_params(axis="x", rotation=45)
