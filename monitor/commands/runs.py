"""`sparsity-monitor runs`: list, show, watch and delete runs; without a command the list over gRPC."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from monitor.commands.training_side import DEFAULT_TARGET, JSON_HELP, TARGET_HELP
from monitor.errors import SparsityMonitorError
from monitor.service.care.commands import delete
from monitor.service.quantities.run_state import RunState
from monitor.service_url import DEFAULT_SERVICE_URL
from monitor.terminal import printable, printable_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

_ADDRESS = re.compile("[:/]")
_WORD = re.compile(r"[\w.+@%/-]+")
_COMPLETION_SECONDS = 2.0


def complete_run(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the runs that a shell offers, by id and name; none where the service does not answer at once."""
    from monitor.notebook.interface import Interface

    try:
        interface = Interface(context.params.get("service_url") or DEFAULT_SERVICE_URL, _COMPLETION_SECONDS)
        found = interface.get("runs", parameters={"search": incomplete})["runs"]
    except SparsityMonitorError:
        return []
    # What a shell would take for more than a word is left to who types it.
    return [(run["run_id"], printable(run["name"])) for run in found if _WORD.fullmatch(run["run_id"])]


Run = Annotated[
    str, typer.Argument(help="The run: its id, or a name that no other run has.", autocompletion=complete_run)
]
ServiceUrl = Annotated[
    str,
    typer.Option(help="Where the service has its pages: runs are read by HTTP.", envvar="SPARSITY_MONITOR_SERVICE_URL"),
]
Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]


class _OrTarget(TyperGroup):
    """Commands, or in the place of one the address that earlier versions took alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read a command, an address with nothing behind it, or nothing."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        words = [each for each in args if not each.startswith("-")]
        if words and words[0] in self.commands:
            return super().parse_args(ctx, [DEFAULT_TARGET, *args])
        if len(words) > 1:
            ctx.fail(f"{words[0]!r} is no command, and nothing follows an address: a command takes --service-url.")
        if words and not _ADDRESS.search(words[0]):
            ctx.fail(f"No such command {words[0]!r}; there are {', '.join(self.commands)}, or give HOST:PORT.")
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the address only where it may be given: no shell completes it, and no usage of a command shows it."""
        known = super().get_params(ctx)
        if ctx.command is self and not ctx.resilient_parsing:
            return known
        return [each for each in known if each.param_type_name == "option"]


runs_commands = typer.Typer(
    cls=_OrTarget,
    invoke_without_command=True,
    help="List, show, watch and delete the runs of a service. Without a command: list them over gRPC, with tabs "
    "between the fields in a pipe.",
    epilog="Example: sparsity-monitor runs list --state running",
)


@runs_commands.callback()
def runs(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help=TARGET_HELP)] = DEFAULT_TARGET,
) -> None:
    """List the runs over gRPC where no command follows."""
    if context.invoked_subcommand is not None:
        return
    import grpc

    from monitor.commands.listing import print_runs
    from monitor.report.target import check_target
    from monitor.wire.channel import failure

    with failing_in_words():
        try:
            print_runs(check_target(target))
        except grpc.RpcError as error:
            sys.exit(failure(target, error))


@runs_commands.command("list", epilog="Example: sparsity-monitor runs list --state running --label algorithm=GRPO")
def list_(
    *,
    service_url: ServiceUrl = DEFAULT_SERVICE_URL,
    state: Annotated[
        list[RunState] | None,
        typer.Option(
            metavar="STATE",
            help=f"Only runs in this state: {', '.join(RunState)}; several for any of them.",
        ),
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


@runs_commands.command(epilog="Example: sparsity-monitor runs show grpo-1")
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


@runs_commands.command(epilog="Example: sparsity-monitor runs watch grpo-1")
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


# The same as `store delete`, beside the list that names what may go.
runs_commands.command(epilog="Example: sparsity-monitor runs delete grpo-1 --dry-run")(delete)


def print_json(value: Sequence[Any] | dict[str, Any]) -> None:
    """Print JSON, in ASCII: nothing in it acts on a terminal."""
    print(json.dumps(value, indent=2))


@contextmanager
def failing_in_words() -> Iterator[None]:
    """End the command with what is wrong."""
    try:
        yield
    except SparsityMonitorError as error:
        sys.exit(printable_lines(str(error)))
