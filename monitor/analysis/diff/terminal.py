"""A difference in the terminal, 80 columns wide, or in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.analysis.diff import shown
from monitor.analysis.diff.difference import Difference
from monitor.terminal import printable


def print_difference(difference: Difference, console: Console, *, full: bool) -> None:
    """Print totals and tables.

    Args:
        difference: what to print.
        console: where to print.
        full: each module of each layer, too.
    """
    pairs, total = difference.pairs, difference.total
    console.print(_line("base", pairs.base.source), soft_wrap=True)
    console.print(_line("fine-tuned", pairs.finetuned.source), soft_wrap=True)
    console.print(_line("compared", f"{total.weights:,} weights of {len(pairs):,} parameters"))
    console.print()
    console.print(f"{shown.CUMULATIVE}.")
    console.print(_table(["counts as changed", "unchanged", "changed"], shown.total_rows(difference), 1))
    console.print(shown.size_of_update(difference))
    for remark in shown.remarks(difference):
        console.print(Text(printable(remark)))
    columns = ["weights", *shown.criteria(difference)]
    sections = [("module", ["module"], shown.module_rows(difference))]
    sections += [("layer", ["stack", "layer"], shown.layer_rows(difference))]
    sections += [("group", ["stack", "layer", "module"], shown.group_rows(difference))] if full else []
    for what, labels, rows in sections:
        if rows:
            console.print()
            console.print(f"By {what}, {shown.measured_as(difference)}")
            console.print(_table([*labels, *columns], rows, len(labels)))


def _line(label: str, value: str) -> Text:
    return Text(f"{label:<12}{printable(value)}")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], labels: int) -> Table:
    """Return a table of the first cells of the rows.

    Of the first `labels` columns those that are empty are left out; the other columns stand to the right.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    used = [i for i in range(len(columns)) if i >= labels or any(row[i] for row in rows)]
    for i in used:
        table.add_column(columns[i], justify="left" if i < labels else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(row[i])) for i in used))
    return table
