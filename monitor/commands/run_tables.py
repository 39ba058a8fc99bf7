"""Runs as tables in a terminal, or as the same text of 80 columns in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.commands.bars import bar
from monitor.notebook.interface import Json, what_went
from monitor.percent import percent
from monitor.terminal import printable

_LAYER_HEADERS = ("layer", "trained", "differ from base", "share")
_BAR_WIDTH, _LEAST_WIDTH = 24, 72
# Between two columns.
_GAP = 2


def plain(text: object) -> Text:
    """Return text of others: no markup, and nothing in it acts on a terminal."""
    return Text(printable(str(text)), overflow="fold")


def print_list(runs: Sequence[Json], service_url: str) -> None:
    """Print a row for each run."""
    if not runs:
        print(f"no run at {service_url} matches, or none has reported yet")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("\nrun", overflow="fold")
    table.add_column("\nstate", no_wrap=True)
    for name in ("\nstep", "sparsity\ncumulative", "\nstep"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("\nmeasured as", overflow="fold")
    for run in runs:
        table.add_row(
            _titled(run),
            run["state"],
            progress(run),
            of_trained(run, "cumulative_sparsity"),
            of_trained(run, "step_sparsity"),
            plain(measured_as(run)),
        )
    _console().print(table)


def print_run(run: Json) -> None:
    """Print how a run stands, and a row with a bar for each of its layers."""
    console = _console()
    console.print(_titled(run))
    for line in summary(run):
        console.print(plain(line))
    console.print()
    console.print(layers(run, console.width, ascii_only=console.options.ascii_only))


def _console() -> Console:
    """Return where tables go: no narrower than they need, so that a terminal folds lines and no number is cut off."""
    width = max(Console().width, _LEAST_WIDTH)
    return Console(highlight=False, width=width)


def summary(run: Json) -> list[str]:
    """Return how a run stands, in lines."""
    reason = f": {run['reason']}" if run["reason"] else ""
    sparsities = f"cumulative sparsity {of_trained(run, 'cumulative_sparsity')}, step sparsity "
    known = f"{run['observations']:,} observations, attempt {run['attempt']}"
    verdict = run["verdict"]
    judged = [f"{verdict['kind']} at step {verdict['step']:,}: {verdict['reason']}"] if verdict else []
    return [
        f"{run['state']}{reason}, at step {progress(run)}, {known}",
        f"model {run['model']}, base {run['base']}",
        f"{sparsities}{of_trained(run, 'step_sparsity')} ({measured_as(run)})",
        f"{run['trained_weights']:,} of {run['weights']:,} weights are trained",
        *judged,
        *what_went(run),
    ]


def measured_as(run: Json) -> str:
    """Return what a sparsity of the run has to be named with."""
    return f"{run['criterion']}, {run['visible_dtype']}"


def progress(run: Json) -> str:
    """Return the step, and of how many where that is known."""
    return f"{run['step']:,} of {run['planned_steps']:,}" if run["planned_steps"] else f"{run['step']:,}"


def of_trained(run: Json, field: str) -> str:
    """Return a sparsity of a run for people."""
    return percent(run[field]) if run["trained_weights"] else "not trained"


def _titled(run: Json) -> Text:
    title = plain(run["name"] or run["run_id"])
    title.stylize("bold")
    return title.append(f"  {printable(run['run_id'])}", style="not bold") if run["name"] else title


def layers(run: Json, width: int, *, ascii_only: bool) -> Table:
    """Return the layers, added up over their modules: counts of groups add up exactly.

    Args:
        width: of the terminal, in characters; bars take what the numbers leave of it.
    """
    counted = _by_layer(run)
    rows = [_cells(label, *counts) for label, counts in counted.items()]
    shares = [_share(*counts) for counts in counted.values()]
    largest = max(filter(None, shares), default=0.0)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in _LAYER_HEADERS:
        table.add_column(header, justify="left" if header == "layer" else "right", no_wrap=True)
    bars = f"up to {percent(largest)}"
    left = width - sum(max(map(len, cells)) + _GAP for cells in zip(_LAYER_HEADERS, *rows, strict=True))
    if not largest or left < len(bars):
        for row in rows:
            table.add_row(*map(plain, row))
        return table
    table.add_column(bars, no_wrap=True)
    for row, share in zip(rows, shares, strict=True):
        drawn = bar((share or 0.0) / largest, min(left, _BAR_WIDTH), ascii_only=ascii_only)
        table.add_row(*map(plain, row), Text(drawn, style="cyan"))
    return table


def _by_layer(run: Json) -> dict[str, tuple[int, int | None]]:
    """Return the trained weights of each layer, and how many of them differ from the base, where all are measured."""
    found: dict[str, tuple[int, int | None]] = {}
    for group in run["groups"]:
        trained, changed = found.get(group["label"], (0, 0))
        more = group["counts"]["changed"]
        both = None if changed is None or more is None else changed + more
        found[group["label"]] = (trained + group["trained_weights"], both)
    return found


def _cells(label: str, trained: int, changed: int | None) -> tuple[str, str, str, str]:
    counted = "not measured" if changed is None else f"{changed:,}"
    return label, f"{trained:,}", counted, percent(_share(trained, changed)) if trained else "not trained"


def _share(trained: int, changed: int | None) -> float | None:
    return None if changed is None or not trained else changed / trained
