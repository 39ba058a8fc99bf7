"""The tables of a structure, as rows of text: for the terminal and for the HTML report alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from monitor.analysis.structure import published
from monitor.analysis.structure.measured import (
    MatrixStructure,
    Structure,
    entropy_rank_share,
    rank_share,
    together,
)
from monitor.analysis.structure.spectrum import TOP, Method
from monitor.analysis.structure.sums import TOP_COORDINATES
from monitor.observe.overlap import Overlap
from monitor.verdict import percent


@dataclass(frozen=True)
class Table:
    """Rows of text under a title.

    Attributes:
        columns: their headings; the first is aligned to the left, the others to the right.
        note: what a reader must know of the columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def total(structure: Structure) -> Table:
    """Return all measured quantities together, with published values beside them."""
    return Table(
        "In total",
        ("quantity", "measured", "published (arXiv)"),
        tuple(_total(structure)),
        "×: times what chance gives.",
    )


def _total(structure: Structure) -> Iterator[tuple[str, str, str]]:
    sums, alpha = structure.sums, structure.settings.share
    yield "visible weights", f"{sums.weights:,}", ""
    yield "  in matrices, in vectors", f"{len(structure.matrices):,}, {structure.vector_count:,}", ""
    yield "changed (cumulative density)", _share(sums.density), ""
    yield "relative norm ‖Δ‖ ÷ ‖θ₀‖", _short_share(sums.relative_norm), _of(published.RELATIVE_NORM)
    yield "rank, mean of the maximum", _share(structure.mean(rank_share)), _of(published.RANK)
    yield "entropy rank, mean of the maximum", _share(structure.mean(entropy_rank_share)), ""
    yield "stable rank, median", _number(structure.median(lambda matrix: matrix.spectrum.stable_rank)), ""
    top = structure.mean(lambda matrix: matrix.spectrum.top_share)
    yield f"energy in the {TOP} largest σ, mean", _share(top), _of(published.TOP_16)
    for share, held in zip(TOP_COORDINATES, sums.top_shares, strict=True):
        yield f"energy in the top {100 * share:g} % of coordinates", _share(held), ""
    smallest, principal = (_of(published.SMALLEST), _of(published.PRINCIPAL)) if alpha == 0.1 else ("", "")
    yield f"changed among the {100 * alpha:g} % smallest", _enrichment(structure.smallest), smallest
    yield f"changed among the {100 * alpha:g} % largest", _enrichment(structure.largest), ""
    yield f"changed among the {100 * alpha:g} % principal", _enrichment(structure.principal), principal
    yield "without a size (NaN, infinity)", f"{sums.without_size:,}", ""


def steps(structure: Structure) -> Table:
    """Return the histogram of |Δ| in representable steps."""
    counts = structure.sums.steps
    moved = int(counts.sum())
    rows = ((_bucket(each), f"{int(n):,}", percent(int(n) / moved)) for each, n in enumerate(counts) if n)
    return Table("Size of the changes, in representable steps", ("steps", "weights", "share"), tuple(rows), _STEPS_NOTE)


_STEPS_NOTE = "A step leads from one value of the visible dtype to the next; across zero, each value in between counts."


def _bucket(bucket: int) -> str:
    return "1" if not bucket else f"{2**bucket:,}–{2 ** (bucket + 1) - 1:,}"


_COLUMNS = ("density", "rank", f"top {TOP}", "stable", "rows", "cols", "small", "princ.")
_NOTE = (
    "density: changed ÷ weights. rank: of the maximum; ~ where only the largest singular values were computed. "
    f"top {TOP}: energy in so many singular values. stable: ‖Δ‖² ÷ σ₁². rows, cols: variance of the share that changed "
    "÷ the binomial one. small, princ.: changed weights among the smallest and the principal ones ÷ chance."
)


def by_module(structure: Structure) -> Table:
    """Return one row per module, of all its layers and experts: means over its matrices, each counting once."""
    modules: dict[str, list[MatrixStructure]] = {}
    for matrix in structure.matrices:
        modules.setdefault(matrix.group.module, []).append(matrix)
    rows = tuple((module, f"{len(found):,}", *_cells(found)) for module, found in modules.items())
    return Table("By module, mean over its matrices", ("module", "n", *_COLUMNS), rows, _NOTE)


def by_matrix(structure: Structure) -> Table:
    """Return one row per matrix."""
    rows = tuple((matrix.name, *_cells([matrix])) for matrix in structure.matrices)
    return Table("By matrix", ("matrix", *_COLUMNS), rows, _NOTE)


def _cells(matrices: list[MatrixStructure]) -> tuple[str, ...]:
    changed, weights = (sum(getattr(each.sums, name) for each in matrices) for name in ("changed", "weights"))
    randomised = any(each.spectrum.method is Method.RANDOMISED for each in matrices)
    return (
        _short_share(changed / weights),
        "~" if randomised else _short_share(_mean(map(rank_share, matrices))),
        _short_share(_mean(each.spectrum.top_share for each in matrices)),
        _number(_mean(each.spectrum.stable_rank for each in matrices)),
        _number(_mean(each.rows.dispersion for each in matrices)),
        _number(_mean(each.columns.dispersion for each in matrices)),
        _number(together(each.smallest for each in matrices).lift),
        _number(together(each.principal for each in matrices).lift),
    )


def _mean(values: Iterable[float | None]) -> float:
    found = [value for value in values if value is not None and not math.isnan(value)]
    return sum(found) / len(found) if found else math.nan


def _of(values: published.Range) -> str:
    return f"{values.value} ({values.source})"


def _enrichment(overlap: Overlap) -> str:
    return "–" if math.isnan(overlap.lift) else f"{percent(overlap.o1)}, {overlap.lift:.2f} ×"


def _share(share: float) -> str:
    return "–" if math.isnan(share) else percent(share)


def _short_share(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.3g} %"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
