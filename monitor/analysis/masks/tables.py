"""Results for people in a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.analysis.masks.comparison import Compared, Comparison
from monitor.analysis.masks.fitting import measured_as
from monitor.analysis.masks.published import CAVEAT, PUBLISHED
from monitor.analysis.masks.updates import UpdateAgreement
from monitor.observe.masks.file import MaskFile
from monitor.observe.overlap import ratio
from monitor.percent import percent
from monitor.terminal import printable

NOTHING = "–"
"""Stands for what cannot be divided."""

_ABOUT_SCORES = (
    "Read the lift for how far from chance, and the z-score for whether: it grows with the number of weights."
)


def share(value: float) -> str:
    """Return a share from 0 to 1 as a percentage.

    >>> share(0.605), share(math.nan)
    ('60.50 %', '–')
    """
    return NOTHING if math.isnan(value) else percent(value)


def number(value: float, decimals: int = 2) -> str:
    """Return a number that may be NaN.

    >>> number(1.648), number(12345.6, 1)
    ('1.65', '12,345.6')
    """
    return NOTHING if math.isnan(value) else f"{value:,.{decimals}f}"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print masks, their overlap, and what chance gives."""
    print_masks(comparison, console)
    pairs = list(comparison.pairs)
    if len(pairs) == 1:
        _print_pair(comparison, console)
    else:
        console.print(_table_of_pairs(comparison))
        console.print("\nBy layer and module: --json, or -o report.html.")
    if comparison.counts.control is not None:
        for a, b in pairs:
            _print_control(comparison, a, b, console)
    console.print("\n".join(["", _ABOUT_SCORES, *PUBLISHED, CAVEAT]))


def print_mask(described: Comparison, console: Console) -> None:
    """Print one mask: where it comes from, and how dense it is where."""
    print_masks(described, console)
    file = described.masks.files[0]
    if "made_by" in file.fields:
        made_of = file.fields.get("made_of", "")
        console.print(
            f"Made by: {printable(file.fields['made_by'])} {printable(made_of)}\n", markup=False, highlight=False
        )
    for title, parts in (("layer", described.parts.layers), ("module", described.parts.modules)):
        table = _table(title, "weights", "ones", "density")
        for label, where in parts.items():
            density = described.density(0, where)
            table.add_row(printable(label), f"{density.weights:,}", f"{density.ones:,}", share(density.share))
        console.print(table)
        console.print()


def print_masks(comparison: Comparison, console: Console) -> None:
    """Print which mask is called what, and how dense it is."""
    masks = comparison.masks
    for position, (letter, path, file) in enumerate(zip(masks.letters, masks.paths, masks.files, strict=True)):
        title = Text(f"{letter}  " if len(masks.files) > 1 else "", style="bold")
        console.print(title.append(printable(path), style="not bold"), soft_wrap=True)
        density = comparison.density(position, comparison.everywhere)
        console.print(f"   {density.ones:,} of {density.weights:,} weights, density {share(density.share)}")
        console.print(f"   {printable(origin(file))}")
    console.print()


def origin(file: MaskFile) -> str:
    """Return where a mask comes from, in a line."""
    metadata = file.metadata
    run = f", run {metadata.run_id}" if metadata.run_id else ""
    step = f", step {metadata.step}" if metadata.step else ""
    return f"{measured_as(metadata)}{step}{run}"


def _print_pair(comparison: Comparison, console: Console) -> None:
    whole = comparison.whole(0, 1)
    console.print(_table_of_whole(whole))
    if whole.updates is not None:
        console.print("\n" + _agreement(whole.updates))
    for title, parts in (("layer", comparison.layers(0, 1)), ("module", comparison.modules(0, 1))):
        console.print()
        console.print(_table_of_parts(title, parts))
    console.print("\nA and B are densities; lift and z-score by matrix.")


def _agreement(updates: UpdateAgreement) -> str:
    left_out = (
        f"\nLeft out: {updates.not_finite:,} weights, whose update is infinite or NaN." if updates.not_finite else ""
    )
    return (
        f"Of {updates.moved_in_both:,} weights that both moved, {share(updates.sign_agreement)} moved the same way (a "
        f"coin: 50 %).\nCosine of the updates: {number(updates.cosine, 4)}; in the weights of both masks: "
        f"{number(updates.cosine_in_both, 4)}.{left_out if updates.not_finite else ''}"
    )


def _table_of_whole(compared: Compared) -> Table:
    whole, by_matrix = compared.overlap.whole, compared.overlap.by_matrix
    counts = compared.overlap.counts
    table = _table("", "observed", "chance, anywhere", "chance, by matrix")
    rows: Sequence[tuple[str, str, Callable[[float], str], float, float]] = (
        ("o₁ = |A∩B| / |A|", share(counts.o1), share, whole.o1, by_matrix.o1),
        ("o₂ = |A∩B| / |B|", share(counts.o2), share, whole.o2, by_matrix.o2),
        ("Jaccard = |A∩B| / |A∪B|", share(counts.jaccard), share, whole.jaccard, by_matrix.jaccard),
        ("|A∩B|", f"{counts.intersection:,}", lambda value: number(value, 0), whole.expected, by_matrix.expected),
        ("lift = observed / chance", "", number, whole.lift, by_matrix.lift),
        ("z-score", "", lambda value: number(value, 1), whole.z_score, by_matrix.z_score),
    )
    for label, observed, written, anywhere, in_matrix in rows:
        table.add_row(label, observed, written(anywhere), written(in_matrix))
    return table


def _table_of_parts(title: str, parts: Mapping[str, Compared]) -> Table:
    table = _table(title, "A", "B", "o₁", "o₂", "Jaccard", "lift", "z-score")
    for label, compared in parts.items():
        counts, chance = compared.overlap.counts, compared.overlap.by_matrix
        densities = (ratio(ones, counts.weights) for ones in (counts.changed, counts.reference))
        shares = map(share, (*densities, counts.o1, counts.o2, counts.jaccard))
        table.add_row(printable(label), *shares, number(chance.lift), number(chance.z_score, 1))
    return table


def _table_of_pairs(comparison: Comparison) -> Table:
    table = _table("", "o₁", "chance", "o₂", "chance", "Jaccard", "lift", "z-score")
    for a, b in comparison.pairs:
        counts, chance = comparison.whole(a, b).overlap.counts, comparison.whole(a, b).overlap.by_matrix
        shares = map(share, (counts.o1, chance.o1, counts.o2, chance.o2, counts.jaccard))
        letters = comparison.masks.letters
        table.add_row(f"{letters[a]} {letters[b]}", *shares, number(chance.lift), number(chance.z_score, 1))
    return table


def _print_control(comparison: Comparison, a: int, b: int, console: Console) -> None:
    control = comparison.whole(a, b).control
    if control is not None:
        first, second = comparison.masks.letters[a], comparison.masks.letters[b]
        console.print(
            f"\n{first} and a random mask as dense as {second} in each matrix (seed {comparison.seed}):\n"
            f"o₁ {share(control.counts.o1)}, o₂ {share(control.counts.o2)}, lift {number(control.by_matrix.lift)}, "
            f"z-score {number(control.by_matrix.z_score, 1)}.",
        )


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table
