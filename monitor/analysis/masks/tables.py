"""Results for people in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.analysis.masks.comparison import Compared, Comparison
from monitor.analysis.masks.published import CAVEAT, PUBLISHED
from monitor.analysis.masks.wording import ABOUT_SCORES, about_overlap, about_pair, measured_as, number, share
from monitor.observe.masks.file import MaskFile
from monitor.observe.overlap import ratio
from monitor.terminal import printable


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print masks, their overlap, and what chance gives."""
    _print_masks(comparison, console)
    pairs = list(comparison.pairs)
    if len(pairs) == 1:
        _print_parts(comparison, console)
    else:
        console.print(_table_of_pairs(comparison))
        console.print("\nChance, lift and z-score by matrix. By layer and module: --json, or -o report.html.")
    console.print()
    if sentences := [sentence for a, b in pairs for sentence in about_pair(comparison, a, b)]:
        console.print("\n".join([*sentences, ""]))
    console.print("\n".join([ABOUT_SCORES, *PUBLISHED, CAVEAT]))


def print_mask(described: Comparison, console: Console) -> None:
    """Print one mask: where it comes from, and how dense it is where."""
    _print_masks(described, console)
    for title, parts in (("layer", described.parts.layers), ("module", described.parts.modules)):
        table = _table(title, "weights", "ones", "density")
        for label, where in parts.items():
            density = described.density(0, where)
            table.add_row(printable(label), f"{density.weights:,}", f"{density.ones:,}", share(density.share))
        console.print(table)
        console.print()


def _print_masks(comparison: Comparison, console: Console) -> None:
    masks = comparison.masks
    for position, (letter, path, file) in enumerate(zip(masks.letters, masks.paths, masks.files, strict=True)):
        title = Text(f"{letter}  " if len(masks.files) > 1 else "", style="bold")
        console.print(title.append(printable(path), style="not bold"), soft_wrap=True)
        density = comparison.density(position, comparison.everywhere)
        console.print(f"   {density.ones:,} of {density.weights:,} weights, density {share(density.share)}")
        console.print(f"   {printable(_origin(file))}")
    console.print()


def _origin(file: MaskFile) -> str:
    metadata = file.metadata
    made = f"{file.fields['made_by']} of {file.fields.get('made_of', '')}" if "made_by" in file.fields else ""
    # A structural mask is measured by nothing.
    measured = "" if made and not metadata.criterion else measured_as(metadata)
    step = f"step {metadata.step}" if metadata.step else ""
    run = f"run {metadata.run_id}" if metadata.run_id else ""
    return ", ".join(filter(None, (measured, step, run, made)))


def _print_parts(comparison: Comparison, console: Console) -> None:
    table = _table("", "observed", "chance, anywhere", "chance, by matrix")
    for row in about_overlap(comparison.whole(0, 1)):
        table.add_row(*row)
    console.print(table)
    for title, parts in (("layer", comparison.layers(0, 1)), ("module", comparison.modules(0, 1))):
        console.print()
        console.print(_table_of_parts(title, parts))
    console.print("\nA and B are densities; lift and z-score are by matrix.")


def _table_of_parts(title: str, parts: Mapping[str, Compared]) -> Table:
    table = _table(title, "A", "B", "o₁", "o₂", "Jaccard", "lift", "z-score")
    for label, compared in parts.items():
        counts, chance = compared.overlap.counts, compared.overlap.by_matrix
        densities = (ratio(ones, counts.weights) for ones in (counts.changed, counts.reference))
        shares = map(share, (*densities, counts.o1, counts.o2, counts.jaccard))
        table.add_row(printable(label), *shares, number(chance.lift), number(chance.z_score, 1))
    return table


def _table_of_pairs(comparison: Comparison) -> Table:
    table = _table("A B", "o₁", "chance", "o₂", "chance", "Jaccard", "lift", "z-score")
    for a, b in comparison.pairs:
        overlap = comparison.whole(a, b).overlap
        counts, chance = overlap.counts, overlap.by_matrix
        shares = map(share, (counts.o1, chance.o1, counts.o2, chance.o2, counts.jaccard))
        letters = comparison.masks.letters
        table.add_row(f"{letters[a]} {letters[b]}", *shares, number(chance.lift), number(chance.z_score, 1))
    return table


def _table(first: str, *others: str) -> Table:
    # Names of modules have to find room beside the numbers.
    gap = 1 if len(others) > 5 else 2
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table
