"""The command `sparsity-monitor export`, as the command line has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monitor.commands.export.form import Format
from monitor.commands.runs import Run, ServiceUrl, failing_in_words
from monitor.service_url import DEFAULT_SERVICE_URL


def add_export(app: typer.Typer) -> None:
    """Add the command to an application."""

    @app.command(epilog="Example: sparsity-monitor export grpo-1 --field changed -o grpo-1.csv")
    def export(
        run: Run,
        *,
        output: Annotated[
            Path | None,
            typer.Option("--output", "-o", help="New file: .csv, .om, .parquet. By default, CSV is printed."),
        ] = None,
        form: Annotated[
            Format | None,
            typer.Option("--format", help="By default, what the name of the file ends in."),
        ] = None,
        field: Annotated[
            list[str] | None,
            typer.Option(help="Only this curve, such as changed or metric:loss; several for several."),
        ] = None,
        service_url: ServiceUrl = DEFAULT_SERVICE_URL,
    ) -> None:
        """Write every point of a run's curves as CSV, Parquet, or OpenMetrics.

        OpenMetrics, with timestamps and the names of /metrics, brings a run into a Prometheus that never scraped it:
        promtool tsdb create-blocks-from openmetrics FILE DIRECTORY
        """
        with failing_in_words():
            from monitor.commands.export.export import export as export_run
            from monitor.notebook.interface import Interface

            export_run(Interface(service_url), run, output, form, field or [])
