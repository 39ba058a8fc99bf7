"""A structure in the terminal: what was found in words, then tables, 80 columns wide where nobody says otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from monitor.analysis.structure import tables
from monitor.analysis.structure.findings import findings_of, methods
from monitor.analysis.structure.measured import Structure
from monitor.analysis.structure.source import Source
from monitor.errors import name_some
from monitor.terminal import printable

_INDENT = 2
_SHORT = 42
# Columns of a table whose names have to find room, and spaces between them.
_FEW, _GAP = 3, 1


def show(structure: Structure, source: Source, console: Console, *, every_matrix: bool) -> None:
    """Print what was found of an update.

    Args:
        every_matrix: one row per matrix instead of one per module.
    """
    title = f"Structure of the update from {printable(source.base)} to {printable(source.finetuned)}"
    _print(console, Text(title, "bold"))
    for finding in findings_of(structure):
        console.print()
        _print(console, Text.assemble((finding.topic, "bold"), f" · {finding.agreement}"))
        _print(console, Text(finding.text), _INDENT)
    matrices = (tables.by_matrix if every_matrix else tables.by_module)(structure)
    for table in (tables.total(structure), matrices, tables.steps(structure)):
        if table.rows:
            console.print()
            show_table(table, console)
    for line in (methods(structure), *left_out(structure, source)):
        console.print()
        _print(console, Text(line))


def show_table(table: tables.Table, console: Console) -> None:
    """Print one table. What its first column says stays on one line, as long as that is short."""
    _print(console, Text(table.title, "bold"))
    grid = RichTable(box=None, pad_edge=False, padding=(0, _GAP if len(table.columns) > _FEW else 2 * _GAP, 0, 0))
    # Beside many numbers, which do not break, a name has to.
    few = len(table.columns) <= _FEW
    short = few and all(len(row[0]) <= _SHORT for row in table.rows)
    grid.add_column(table.columns[0], overflow="fold", no_wrap=short)
    for column in table.columns[1:]:
        grid.add_column(column, justify="right", overflow="fold", no_wrap=not few)
    for row in table.rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    console.print(grid)
    if table.note:
        _print(console, Text(table.note, "dim"))


def left_out(structure: Structure, source: Source) -> Iterator[str]:
    """Yield what was taken for the two checkpoints, and a sentence on each kind of parameters that are not in this."""
    yield from map(printable, source.notes)
    for why in dict.fromkeys(each.why for each in structure.skipped):
        skipped = [each for each in structure.skipped if each.why == why]
        weights, some = sum(each.weights for each in skipped), name_some([printable(each.name) for each in skipped], 3)
        yield f"Skipped, {why}: {len(skipped):,} parameters of {weights:,} weights, {some}."
    for why, names in source.not_compared:
        yield f"Not compared, {why}: {len(names):,} parameters, {name_some(list(map(printable, names)), 3)}."


def _print(console: Console, text: Text, indent: int = 0) -> None:
    for line in text.wrap(console, console.width - indent, overflow="fold"):
        line.rstrip()
        console.print(Text(" " * indent) + line)
