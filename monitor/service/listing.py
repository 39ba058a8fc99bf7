"""The runs of a service as a table in the terminal, queried over gRPC."""

from __future__ import annotations

import grpc
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from monitor.service.labels import measured_as
from monitor.service.page import when
from monitor.wire.monitor_pb2 import ListRunsRequest, RunSummary
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub

_TIMEOUT_SECONDS = 10
_COLUMNS = ("run", "name", "model", "state", "attempt", "step", "observations", "last observation", "measured as")


def print_runs(target: str) -> None:
    """Print the runs that the service at `target` knows.

    Raises:
        grpc.RpcError: it does not answer.
    """
    with grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stub = MonitorServiceStub(channel)
        runs = stub.ListRuns(ListRunsRequest(), timeout=_TIMEOUT_SECONDS).runs
    table = Table(*(Column(name, overflow="fold") for name in _COLUMNS))
    for run in runs:
        # As plain text: names may contain what Rich takes for markup.
        table.add_row(*map(Text, _row(run)))
    Console().print(table if runs else Text(f"{target} knows no run yet"))


def _row(run: RunSummary) -> list[str]:
    registration = run.registration
    state = RunSummary.State.Name(run.state).removeprefix("STATE_").lower()
    return [
        registration.run_id,
        registration.name,
        registration.model,
        f"{state}: {run.reason}" if run.reason else state,
        str(registration.attempt),
        str(run.last_step),
        str(run.observations),
        when(run.last_observed_at or None),
        measured_as(registration),
    ]
