"""A run that is watched until it ends: a table that lives in a terminal, a line for each new step elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from monitor.commands.bars import sparkline
from monitor.commands.run_tables import layers, measured_as, of_trained, plain, progress, summary
from monitor.errors import ReportingError
from monitor.notebook.interface import Interface, Json, NoSuchRunError
from monitor.percent import percent
from monitor.service.quantities.run_state import ENDED
from monitor.terminal import printable

_SPARSITIES = ("cumulative_sparsity", "step_sparsity")
# Of what trainers log, what tells how it goes.
_LOGGED = ("metric:loss", "metric:reward", "metric:kl", "metric:grad_norm", "metric:learning_rate")
_POINTS = 40


def watch_run(interface: Interface, name: str, every_seconds: float, *, as_json: bool) -> None:
    """Show a run until it has ended.

    A service that is not there at first is an error; one that goes away later is asked again.

    Raises:
        ReportingError: it cannot be reached, or has no such run.
    """
    run = interface.run(name)
    states = states_of(interface, run, every_seconds)
    if as_json or not sys.stdout.isatty():
        print_lines(states, as_json=as_json)
    else:
        _show_live(interface, states)


def states_of(interface: Interface, run: Json, every_seconds: float) -> Iterator[Json]:
    """Yield a run each time that it was asked for, until it has ended.

    Raises:
        NoSuchRunError: it is not there any more.
    """
    yield run
    away = False
    while run["state"] not in ENDED:
        time.sleep(every_seconds)
        try:
            run = interface.get("runs", run["run_id"])
        except NoSuchRunError:
            # It was removed from the store, and does not come back.
            raise
        except ReportingError as error:
            if not away:
                print(f"{str(error).rstrip('.')}. It is asked again.", file=sys.stderr)
            away = True
            continue
        away = False
        yield run


def print_lines(states: Iterator[Json], *, as_json: bool) -> None:
    """Print a line for each state of the run that is new."""
    known = None
    for run in states:
        now = (run["state"], run["step"], run["observations"], run["attempt"])
        if now != known:
            # At once: whoever reads it waits for it.
            print(json.dumps(_without_groups(run)) if as_json else _line(run), flush=True)
        known = now


def _without_groups(run: Json) -> Json:
    return {name: value for name, value in run.items() if name not in ("groups", "fields")}


def _line(run: Json) -> str:
    reason = f" ({run['reason']})" if run["reason"] else ""
    return printable(
        f"step {progress(run)}, {run['state']}{reason}: cumulative sparsity {of_trained(run, 'cumulative_sparsity')}, "
        f"step sparsity {of_trained(run, 'step_sparsity')} ({measured_as(run)})"
    )


def _show_live(interface: Interface, states: Iterator[Json]) -> None:
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        for run in states:
            live.update(_shown(run, _curves(interface, run), console), refresh=True)


def _curves(interface: Interface, run: Json) -> Json:
    has = {field["name"] for field in run["fields"]}
    fields = [*_SPARSITIES, *(name for name in _LOGGED if name in has)]
    try:
        found: Json = interface.get("runs", run["run_id"], "history", parameters={"fields": fields, "points": _POINTS})
    except ReportingError:
        # What is said of it comes with the next state.
        return {}
    curves: Json = found["curves"]
    return curves


def _shown(run: Json, curves: Json, console: Console) -> Group:
    ascii_only = console.options.ascii_only
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("now", justify="right")
    table.add_column("smallest to largest so far", no_wrap=True)
    for name, curve in curves.items():
        values = curve["last"]
        if values:
            shown = _number(values[-1], curve["unit"])
            drawn = Text(sparkline(values, ascii_only=ascii_only), style="cyan")
            table.add_row(plain(name.removeprefix("metric:").replace("_", " ")), shown, drawn)
    title = plain(f"{run['name']}  {run['run_id']}".strip())
    title.stylize("bold")
    # Last, since it is what a terminal with too few lines leaves out.
    by_layer = layers(run, console.width, ascii_only=ascii_only)
    return Group(title, *map(plain, summary(run)), Text(), table, Text(), by_layer)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "no number"
    return percent(value) if unit == "ratio" else f"{value:.4g}"
