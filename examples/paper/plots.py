"""Plots of the report: small SVG files whose text stays text."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The same file for the same numbers.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "paper", "font.size": 9})
_COLOURS = ("#2f6f9f", "#d98032", "#8a8a8a", "#4f9a5b", "#9d5ba0", "#b0413e", "#6b6b2b", "#3aa6a6", "#1f2a44")


def bars(
    path: Path,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    unit: str,
    published: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draw horizontal bars, the first label on top, and for some labels the range of published values.

    Args:
        series: name → a value for each label.
        published: label → lowest and highest value.
    """
    height = 0.8 / len(series)
    figure, axes = _axes(0.25 * len(labels) * max(1, len(series) * 0.6) + 1.1)
    for number, (name, values) in enumerate(series.items()):
        places = [row + number * height - 0.4 + height / 2 for row in range(len(labels))]
        axes.barh(places, values, height, label=name, color=_COLOURS[number])
    for row, label in enumerate(labels):
        if published and label in published:
            low, high = published[label]
            axes.plot(
                [low, high],
                [row, row],
                color="black",
                lw=2,
                marker="|",
                ms=9,
                label="published" if label == next(iter(published)) else None,
            )
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    _finish(figure, axes, path, legend=len(series) > 1 or bool(published))


def lines(path: Path, curves: Mapping[str, Sequence[tuple[float, float]]], across: str, unit: str) -> None:
    """Draw curves, each a sequence of points."""
    figure, axes = _axes(3.0)
    for number, (name, points) in enumerate(curves.items()):
        axes.plot(*zip(*points, strict=True), label=name, color=_COLOURS[number % len(_COLOURS)], lw=1.4)
    axes.set_xlabel(across)
    axes.set_ylabel(unit)
    _finish(figure, axes, path, legend=True)


def heatmap(path: Path, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]]) -> None:
    """Draw percentages as a table of coloured cells; a cell without a value stays empty."""
    figure, axes = _axes(0.4 * len(rows) + 0.8)
    shown = [[float("nan") if value is None else value for value in row] for row in values]
    axes.imshow(shown, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for row, cells in enumerate(values):
        for column, value in enumerate(cells):
            if value is not None:
                colour = "black" if value > 60 else "white"
                axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    _finish(figure, axes, path, legend=False)


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, height), facecolor="white")
    return figure, figure.subplots()


def _finish(figure: Figure, axes: Axes, path: Path, *, legend: bool) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, metadata={"Date": None})
