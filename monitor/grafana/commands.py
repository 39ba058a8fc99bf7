"""The commands `sparsity-monitor grafana …`. Each imports what it needs, so that no other command pays for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitor.errors import SparsityMonitorError, said_by_system
from monitor.terminal import printable, printable_lines

if TYPE_CHECKING:
    from monitor.grafana.apply.apply import Step

grafana_commands = typer.Typer(
    no_args_is_help=True, help="Put dashboards and alerts into a Grafana, or write them to files."
)

_OF_THE_EXTRA = ("grafana_api", "grafana_foundation_sdk", "yaml")

_Url = Annotated[str, typer.Option(help="Grafana, such as https://grafana.example.", envvar="GRAFANA_URL")]
_Token = Annotated[str, typer.Option(help="Token of a service account with the role Admin.", envvar="GRAFANA_TOKEN")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
_Settings = Annotated[Path | None, typer.Option(help="YAML file with the alert thresholds to change.")]
_ServiceUrl = Annotated[
    str | None,
    typer.Option(
        help="Where browsers find the service, such as https://monitor.example: alerts link to its runbook.",
        envvar="SPARSITY_MONITOR_SERVICE_URL",
    ),
]


@grafana_commands.command(
    epilog="Example: sparsity-monitor grafana apply --url https://grafana.example --token TOKEN --dry-run"
)
def apply(
    *,
    url: _Url,
    token: _Token,
    datasource_uid: Annotated[
        str | None,
        typer.Option(help="uid of an existing Prometheus data source; by default the only one, or Grafana's default."),
    ] = None,
    prometheus_url: Annotated[
        str | None, typer.Option(help="Create a data source for the Prometheus that Grafana reaches at this URL.")
    ] = None,
    webhook_url: Annotated[
        str | None, typer.Option(help="Send the alerts that Grafana manages to this webhook.")
    ] = None,
    alerts: Annotated[bool, typer.Option(help="Let Grafana manage the alerts, too.")] = True,
    alert_settings: _Settings = None,
    service_url: _ServiceUrl = None,
    dry_run: _DryRun = False,
    as_json: _Json = False,
) -> None:
    """Put folder, data source, dashboards and alert rules into a Grafana. Running it again changes nothing."""
    if datasource_uid and prometheus_url:
        sys.exit("--datasource-uid and --prometheus-url were given; expected one of them")
    with _failing_clearly():
        from monitor.grafana.alerts.settings import AlertSettings
        from monitor.grafana.apply import apply as grafana_apply
        from monitor.grafana.apply.client import Grafana

        settings = AlertSettings.read(alert_settings, service_url)
        wish = grafana_apply.Wish(datasource_uid, prometheus_url, webhook_url, alerts, settings)
        with _telling(dry_run, as_json=as_json) as tell:
            grafana_apply.apply(Grafana(url, token), wish, tell, dry_run=dry_run)


@grafana_commands.command(
    epilog="Example: sparsity-monitor grafana delete --url https://grafana.example --token TOKEN --dry-run"
)
def delete(url: _Url, token: _Token, dry_run: _DryRun = False, *, as_json: _Json = False) -> None:
    """Remove from a Grafana what `apply` put there, and nothing else."""
    with _failing_clearly():
        from monitor.grafana.apply import apply as grafana_apply
        from monitor.grafana.apply.client import Grafana

        with _telling(dry_run, as_json=as_json) as tell:
            grafana_apply.delete(Grafana(url, token), tell, dry_run=dry_run)


@grafana_commands.command(epilog="Example: sparsity-monitor grafana generate deploy")
def generate(
    directory: Annotated[Path, typer.Argument(help="Directory to write to.")] = Path("deploy"),
    alert_settings: _Settings = None,
    service_url: _ServiceUrl = None,
    for_grafana_com: Annotated[
        bool,
        typer.Option("--for-grafana-com", help="Write the dashboards alone, as grafana.com and imports take them."),
    ] = False,
    *,
    as_json: _Json = False,
) -> None:
    """Write dashboards, rules, provisioning files and runbook."""
    with _failing_clearly():
        from monitor.grafana.alerts.settings import AlertSettings
        from monitor.grafana.files.generate import generated_files, write_files
        from monitor.grafana.files.shared import files_for_grafana_com

        files = files_for_grafana_com if for_grafana_com else generated_files
        written = write_files(directory, files(AlertSettings.read(alert_settings, service_url)))
        if as_json:
            print(json.dumps({"changed": [str(path) for path in written]}, indent=2))
            return
        for path in written:
            print(path)


@contextmanager
def _telling(dry_run: bool, *, as_json: bool) -> Iterator[Callable[[Step], None]]:
    """Yield what is told of each step: in words at once; as JSON all in the end, also where one of them failed."""
    if not as_json:
        yield _in_words(dry_run)
        return
    steps: list[Step] = []
    try:
        yield steps.append
    finally:
        print(json.dumps({"dry_run": dry_run, "steps": [asdict(step) for step in steps]}, indent=2))


def _in_words(dry_run: bool) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        would = "would " if dry_run and step.action != "keep" else ""
        print(f"{would}{step.action} {printable(step.title)}")
        for change in step.changes:
            print(f"    {printable(change)}")

    return tell


@contextmanager
def _failing_clearly() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] in _OF_THE_EXTRA:
            sys.exit('Dashboards and alerts need more libraries: pip install "sparsity-monitor[grafana]"')
        raise
    except SparsityMonitorError as error:
        sys.exit(printable_lines(str(error)))
    except OSError as error:
        sys.exit(printable_lines(said_by_system(error)))
