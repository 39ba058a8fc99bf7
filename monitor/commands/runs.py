"""`sparsity-monitor runs`: list, show and watch the runs of a service; without a command the list over gRPC."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from monitor.commands.training_side import DEFAULT_TARGET, JSON_HELP
from monitor.errors import SparsityMonitorError
from monitor.service_url import DEFAULT_SERVICE_URL
from monitor.terminal import printable_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

Run = Annotated[str, typer.Argument(help="The run: its id, or a name that no other run has.")]
ServiceUrl = Annotated[
    str,
    typer.Option(help="Where the service has its pages: runs are read by HTTP.", envvar="SPARSITY_MONITOR_SERVICE_URL"),
]
Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]


class _WithTarget(TyperGroup):
    """Commands, before which an address may stand that earlier versions took alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read a command after the default address; everything else is an address, or nothing."""
        return super().parse_args(ctx, [DEFAULT_TARGET, *args] if args and args[0] in self.commands else args)


runs_commands = typer.Typer(
    cls=_WithTarget,
    invoke_without_command=True,
    help="List, show and watch the runs of a service. Without a command: list them over gRPC, with tabs between the "
    "fields in a pipe.",
)


@runs_commands.callback()
def runs(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="gRPC address of the service, host:port.")] = DEFAULT_TARGET,
) -> None:
    """List the runs over gRPC where no command follows."""
    if context.invoked_subcommand is not None:
        return
    import grpc

    from monitor.report.target import check_target
    from monitor.service.listing import print_runs
    from monitor.wire.channel import failure

    with failing_in_words():
        try:
            print_runs(check_target(target))
        except grpc.RpcError as error:
            sys.exit(failure(target, error))


@runs_commands.command("list")
def list_(
    *,
    service_url: ServiceUrl = DEFAULT_SERVICE_URL,
    state: Annotated[
        list[str] | None, typer.Option(help="Only runs in this state, such as running; several for any of them.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only runs with this label, NAME=VALUE; several must all be there.")
    ] = None,
    search: Annotated[str, typer.Option(help="Only runs with this in name, id, model or labels.")] = "",
    as_json: Json = False,
) -> None:
    """List runs with step and sparsities, the most recently registered first."""
    with failing_in_words():
        from monitor.notebook.interface import Interface

        found = list(Interface(service_url).runs(state=state or [], label=label or [], search=search))
        if as_json:
            print_json(found)
        else:
            from monitor.commands.run_tables import print_list

            print_list(found, service_url)


@runs_commands.command()
def show(run: Run, *, service_url: ServiceUrl = DEFAULT_SERVICE_URL, as_json: Json = False) -> None:
    """Show a run as it stands now, with its layers as bars."""
    with failing_in_words():
        from monitor.notebook.interface import Interface

        found = Interface(service_url).run(run)
        if as_json:
            print_json(found)
        else:
            from monitor.commands.run_tables import print_run

            print_run(found)


@runs_commands.command()
def watch(
    run: Run,
    *,
    service_url: ServiceUrl = DEFAULT_SERVICE_URL,
    every_seconds: Annotated[float, typer.Option(min=0.1, help="How often to ask the service.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Watch a run until it ends: a live table in a terminal, in a pipe a line for each new step."""
    with failing_in_words():
        from monitor.commands.watch import watch_run
        from monitor.notebook.interface import Interface

        watch_run(Interface(service_url), run, every_seconds, as_json=as_json)


def print_json(value: Sequence[Any] | dict[str, Any]) -> None:
    """Print JSON that people can read, too."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def failing_in_words() -> Iterator[None]:
    """End the command with what is wrong."""
    try:
        yield
    except SparsityMonitorError as error:
        sys.exit(printable_lines(str(error)))
