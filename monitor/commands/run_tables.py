"""Runs as tables in a terminal, or as the same text of 80 columns in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.commands.bars import bar
from monitor.notebook.interface import Json
from monitor.percent import percent
from monitor.terminal import printable

_BAR_WIDTH = 24


def plain(text: object) -> Text:
    """Return text of others: no markup, and nothing in it acts on a terminal."""
    return Text(printable(str(text)), overflow="fold")


def print_list(runs: Sequence[Json], service_url: str) -> None:
    """Print a row for each run."""
    if not runs:
        print(f"no run at {service_url} matches, or none has reported yet")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("run", "left"), ("state", "left"), ("step", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("sparsity\ncumulative", justify="right")
    table.add_column("\nstep", justify="right")
    table.add_column("measured as", overflow="fold")
    for run in runs:
        table.add_row(
            _titled(run),
            run["state"],
            progress(run),
            of_trained(run, "cumulative_sparsity"),
            of_trained(run, "step_sparsity"),
            plain(measured_as(run)),
        )
    Console(highlight=False).print(table)


def print_run(run: Json) -> None:
    """Print how a run stands, and a row with a bar for each of its layers."""
    console = Console(highlight=False)
    console.print(_titled(run))
    for line in summary(run):
        console.print(plain(line))
    console.print()
    console.print(_layers(run, ascii_only=console.options.ascii_only))


def summary(run: Json) -> list[str]:
    """Return how a run stands, in lines."""
    reason = f": {run['reason']}" if run["reason"] else ""
    sparsities = f"cumulative sparsity {of_trained(run, 'cumulative_sparsity')}, step sparsity "
    known = f"{run['observations']} observations, attempt {run['attempt']}"
    return [
        f"{run['state']}{reason}, at step {progress(run)}, {known}",
        f"model {run['model']}, base {run['base']}",
        f"{sparsities}{of_trained(run, 'step_sparsity')} ({measured_as(run)})",
        f"{run['trained_weights']:,} of {run['weights']:,} weights are trained",
    ]


def measured_as(run: Json) -> str:
    """Return what a sparsity of the run has to be named with."""
    return f"{run['criterion']}, {run['visible_dtype']}"


def progress(run: Json) -> str:
    """Return the step, and of how many where that is known."""
    return f"{run['step']} of {run['planned_steps']}" if run["planned_steps"] else str(run["step"])


def of_trained(run: Json, field: str) -> str:
    """Return a sparsity of a run for people."""
    return percent(run[field]) if run["trained_weights"] else "not trained"


def _titled(run: Json) -> Text:
    title = plain(run["name"] or run["run_id"])
    title.stylize("bold")
    return title.append(f"  {printable(run['run_id'])}", style="not bold") if run["name"] else title


def _layers(run: Json, *, ascii_only: bool) -> Table:
    """Return the layers, added up over their modules: counts of groups add up exactly."""
    layers: dict[str, tuple[int, int | None]] = {}
    for group in run["groups"]:
        trained, changed = layers.get(group["label"], (0, 0))
        more = group["counts"]["changed"]
        both = None if changed is None or more is None else changed + more
        layers[group["label"]] = (trained + group["trained_weights"], both)
    shares = {label: _share(*counts) for label, counts in layers.items()}
    largest = max((share for share in shares.values() if share is not None), default=0.0)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    table.add_column("trained weights", justify="right")
    table.add_column("differ from base", justify="right")
    table.add_column("share", justify="right")
    table.add_column(f"bar up to {percent(largest)}", no_wrap=True)
    for label, (trained, changed) in layers.items():
        share = shares[label]
        drawn = "" if not share else bar(share / largest, _BAR_WIDTH, ascii_only=ascii_only)
        shown = percent(share) if trained else "not trained"
        counted = "not measured" if changed is None else f"{changed:,}"
        table.add_row(plain(label), f"{trained:,}", counted, shown, Text(drawn, style="cyan"))
    return table


def _share(trained: int, changed: int | None) -> float | None:
    return None if changed is None or not trained else changed / trained
