"""The command `sparsity-monitor`. Each command imports what it needs, so that none pays for another."""

import inspect
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from monitor.commands.ending import IN_WORDS, Ending
from monitor.commands.training_side import (
    DEBUG_HELP,
    DEFAULT_TARGET,
    DIRECTORY_HELP,
    DOCTOR_EXAMPLE,
    DOCTOR_HELP,
    JSON_HELP,
    PAGES_HELP,
    PATIENCE_HELP,
    PATIENCE_SECONDS,
    PUSH_EXAMPLE,
    PUSH_HELP,
    RUN_ID_HELP,
    SPOOLED_HELP,
    TARGET_HELP,
    VERSION_HELP,
    deliver,
    examine,
    run_without_typer,
)
from monitor.errors import UnsupportedSystemError
from monitor.terminal import print_anything, printable_lines

if TYPE_CHECKING:
    import typer
    from pydantic_core import ErrorDetails


_MORE = 'This command needs more than the training side does, {}: pip install "sparsity-monitor[{}]"'
# The extra that a command needs; the others need `service`.
_EXTRAS = dict.fromkeys(("diff", "mask", "structure", "delta", "report"), "analysis")


def main() -> None:
    """Run the command line. Where the libraries of the `service` extra are missing, some commands work nevertheless."""
    print_anything()
    ending = Ending()
    with ending.clear():
        _run(ending)


def _run(ending: Ending) -> None:
    if find_spec("typer") is None:
        if not run_without_typer(ending, sys.argv[1:]):
            sys.exit(_needs("typer"))
        return
    try:
        app_of(ending)()
    except ModuleNotFoundError as error:
        sys.exit(_needs(error.name))
    except UnsupportedSystemError as error:
        sys.exit(str(error))


def app_of(ending: Ending) -> "typer.Typer":
    """Return the command line, whose `--debug` says it to the ending."""
    import typer

    app = typer.Typer(name="sparsity-monitor", no_args_is_help=True, pretty_exceptions_enable=False, epilog=IN_WORDS)
    _add_options(app, ending)
    _add_serve(app)
    _add_runs(app)
    _add_export(app)
    _add_push(app)
    _add_doctor(app)
    _add_store(app)
    _add_token(app)
    _add_grafana(app)
    _add_analysis(app)
    return app


def _needs(library: str | None) -> str:
    command = next((each for each in sys.argv[1:] if not each.startswith("-")), "")
    return _MORE.format(library, _EXTRAS.get(command, "service"))


def _add_options(app: "typer.Typer", ending: Ending) -> None:
    import typer

    def show(wanted: bool) -> None:
        if wanted:
            from monitor.version import __version__

            print(__version__)
            raise typer.Exit

    @app.callback()
    def options(
        debug: Annotated[bool, typer.Option("--debug", help=DEBUG_HELP)] = False,
        version: Annotated[bool, typer.Option("--version", callback=show, is_eager=True, help=VERSION_HELP)] = False,
    ) -> None:
        """See, live, how sparse a language model's weight updates are while it trains."""
        ending.debug = debug


def _add_serve(app: "typer.Typer") -> None:
    def serve(**settings: Any) -> None:
        """Receive what training runs report, keep it, and show it."""
        _serve(settings)

    serve.__signature__ = _options_of_service()  # type: ignore[attr-defined]
    app.command(
        epilog="Example: sparsity-monitor serve --store-url sqlite:////data/monitor.db --http-address 127.0.0.1:8765"
    )(serve)


def _options_of_service() -> inspect.Signature:
    """One option, and one environment variable, for every setting of the service."""
    import typer

    from monitor.service.settings import ServiceSettings

    parameters = []
    for name, field in ServiceSettings.model_fields.items():
        option = typer.Option(help=field.description, envvar=f"SPARSITY_MONITOR_{name.upper()}", show_envvar=True)
        annotation = Annotated[field.annotation, option]  # type: ignore[name-defined]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
        )
    return inspect.Signature(parameters)


def _serve(settings: dict[str, Any]) -> None:
    import logging

    from pydantic import ValidationError

    from monitor.service.errors import ServiceError
    from monitor.service.server import run
    from monitor.service.settings import ServiceSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        run(ServiceSettings(**settings), announce=lambda listening: print(listening, flush=True))
    except ValidationError as error:
        sys.exit("\n".join(_explained(each) for each in error.errors()))
    except ServiceError as error:
        sys.exit(printable_lines(str(error)))


def _explained(error: "ErrorDetails") -> str:
    option = "--" + str(error["loc"][0]).replace("_", "-")
    if error["type"] == "value_error":
        return f"{option}: {error['ctx']['error']}"
    return f"{option}: {error['input']} was given; {error['msg'].lower()}"


def _add_runs(app: "typer.Typer") -> None:
    from monitor.commands.runs import runs_commands

    app.add_typer(runs_commands, name="runs")


def _add_export(app: "typer.Typer") -> None:
    from monitor.commands.export.command import add_export

    add_export(app)


def _add_push(app: "typer.Typer") -> None:
    import typer

    @app.command(help=PUSH_HELP, epilog=PUSH_EXAMPLE)
    def push(
        directory: Annotated[Path, typer.Argument(help=SPOOLED_HELP)],
        target: Annotated[str, typer.Option(help=TARGET_HELP)] = DEFAULT_TARGET,
        patience_seconds: Annotated[float, typer.Option(help=PATIENCE_HELP)] = PATIENCE_SECONDS,
        run_id: Annotated[str | None, typer.Option(help=RUN_ID_HELP)] = None,
        *,
        as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    ) -> None:
        deliver(directory, target, patience_seconds, run_id, as_json=as_json)


def _add_doctor(app: "typer.Typer") -> None:
    import typer

    @app.command(help=DOCTOR_HELP, epilog=DOCTOR_EXAMPLE)
    def doctor(
        target: Annotated[str, typer.Argument(help=TARGET_HELP)] = DEFAULT_TARGET,
        *,
        directory: Annotated[Path | None, typer.Option(help=DIRECTORY_HELP)] = None,
        service_url: Annotated[str | None, typer.Option(help=PAGES_HELP, envvar="SPARSITY_MONITOR_SERVICE_URL")] = None,
        as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    ) -> None:
        examine(target, directory, service_url, as_json=as_json)


def _add_store(app: "typer.Typer") -> None:
    from monitor.service.care.commands import backup, store_commands

    app.add_typer(store_commands, name="store")
    # Where people look for it first.
    app.command(epilog="Example: sparsity-monitor backup backups/")(backup)


def _add_token(app: "typer.Typer") -> None:
    from monitor.service.care.token_commands import token_commands

    app.add_typer(token_commands, name="token")


def _add_grafana(app: "typer.Typer") -> None:
    from monitor.grafana.commands import grafana_commands

    app.add_typer(grafana_commands, name="grafana")


def _add_analysis(app: "typer.Typer") -> None:
    from monitor.analysis.delta_commands import add_delta
    from monitor.analysis.diff_commands import add_diff
    from monitor.analysis.masks.commands import add_mask
    from monitor.analysis.structure.commands import add_structure
    from monitor.notebook.commands import add_report

    add_diff(app)
    add_mask(app)
    add_structure(app)
    add_delta(app)
    add_report(app)
