"""The runs of a service in the terminal, queried over gRPC: paragraphs for people, lines with tabs for a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import grpc
from rich.console import Console
from rich.text import Text

from monitor.service.quantities.labels import measured_as
from monitor.service.times import when
from monitor.terminal import printable
from monitor.wire.addresses import each_of
from monitor.wire.channel import open_channel
from monitor.wire.credentials import call_metadata
from monitor.wire.monitor_pb2 import ListRunsRequest, RunSummary
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub

_TIMEOUT_SECONDS = 10
_INDENT = "  "
_COLUMNS = (
    "run",
    "name",
    "model",
    "state",
    "reason",
    "attempt",
    "step",
    "observations",
    "last observation",
    "measured as",
    "branch of",
    "planned steps",
    "thinned",
)


def print_runs(target: str) -> None:
    """Print the runs that the service at `target` knows; of several, the first that answers.

    Raises:
        grpc.RpcError: it does not answer.
    """
    runs = _first_answer(target)
    if not sys.stdout.isatty():
        print_rows(runs)
    elif runs:
        print_paragraphs(runs, Console(highlight=False))
    else:
        print(f"{target} knows no run yet")


def _first_answer(target: str) -> Sequence[RunSummary]:
    *others, last = each_of(target)
    for each in others:
        try:
            return _runs(each)
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
    return _runs(last)


def _runs(target: str) -> Sequence[RunSummary]:
    with open_channel(target, [("grpc.max_receive_message_length", -1)]) as channel:
        stub = MonitorServiceStub(channel)
        response = stub.ListRuns(ListRunsRequest(), timeout=_TIMEOUT_SECONDS, metadata=call_metadata(target))
        runs: Sequence[RunSummary] = response.runs
        return runs


def print_rows(runs: Sequence[RunSummary]) -> None:
    """Print one line for each run, fields between tabs, below a line with their names."""
    for row in (_COLUMNS, *map(_row, runs)):
        print("\t".join(map(printable, row)))


def print_paragraphs(runs: Sequence[RunSummary], console: Console) -> None:
    """Print a paragraph for each run: what it is called, how it stands, what it measures."""
    for run in runs:
        run_id, name, model, state, reason, attempt, step, observations, last, measured, parent, of, thinned = map(
            printable, _row(run)
        )
        title = Text(name or run_id, style="bold", overflow="fold")
        console.print(title.append(f"  {run_id}" if name else "", style="not bold"))
        planned = f" of {of}" if of else ""
        again = f" · attempt {attempt}" if run.registration.attempt > 1 else ""
        seen = "1 observation," if run.observations == 1 else f"{observations} observations, the last"
        lines = [f"{state} at step {step}{planned} · {seen} {last}{again}" if run.observations else f"{state}{again}"]
        lines += [f"reason: {reason}"] * bool(reason)
        lines += [f"branch of {parent}"] * bool(parent)
        lines += [f"thinned: {thinned}"] * bool(thinned)
        lines += [" · ".join(filter(None, [model, measured]))]
        for line in lines:
            for part in Text(line).wrap(console, console.width - len(_INDENT), overflow="fold"):
                print(_INDENT + part.plain.rstrip())


def _row(run: RunSummary) -> tuple[str, ...]:
    registration = run.registration
    return (
        registration.run_id,
        registration.name,
        registration.model,
        RunSummary.State.Name(run.exact_state or run.state).removeprefix("STATE_").lower(),
        run.reason,
        str(registration.attempt),
        str(run.last_step),
        str(run.observations),
        when(run.last_observed_at or None),
        measured_as(registration),
        f"{registration.parent.run_id} at step {registration.parent.step}" if registration.HasField("parent") else "",
        str(registration.planned_steps or ""),
        _thinned(run),
    )


def _thinned(run: RunSummary) -> str:
    if not run.HasField("thinned"):
        return ""
    return f"up to step {run.thinned.until_step} at least 1 in {run.thinned.every} is left"
