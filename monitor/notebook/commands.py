"""The command `sparsity-monitor report`. It imports what it needs, so that no other command pays for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from monitor.analysis.in_words import errors_in_words
from monitor.terminal import printable

_Runs = typer.Argument(
    metavar="RUN",
    help="Output directory of a training, or address of a service: http://HOST:PORT. #RUN behind either names one.",
)


def add_report(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: sparsity-monitor report outputs/grpo http://127.0.0.1:8765#grpo-1 -o report.html")
    def report(
        runs: Annotated[list[str], _Runs],
        *,
        output: Annotated[
            Path,
            typer.Option("--output", "-o", help="New file: .html, one page that needs nothing else; .pdf or .png."),
        ],
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    ) -> None:
        """Write runs into one file, for a paper or a pull request: curves, layers, overlap, and what is measured."""
        with errors_in_words():
            _report(runs, output, as_json=as_json)


def _report(sources: list[str], output: Path, *, as_json: bool) -> None:
    from monitor.analysis.html import Report
    from monitor.analysis.outputs import check_printed
    from monitor.analysis.printed import PrintedReport
    from monitor.analysis.progress import advancing
    from monitor.notebook.load import opened
    from monitor.notebook.page import page_of

    check_printed("--output", output)
    runs = []
    with advancing("Reading runs", len(sources)) as advance:
        for source in sources:
            runs.append(opened(source))
            # What takes its time, and is asked for first here.
            _ = runs[-1].observations, runs[-1].references
            advance(1)
    for run in runs:
        for remark in run.described.remarks:
            print(printable(f"{run.run_id}: {remark}"), file=sys.stderr)
    page_of(runs, Report if output.suffix == ".html" else PrintedReport).write(output)
    if as_json:
        loaded = [{"run_id": run.run_id, "name": run.name, "missing": list(run.described.remarks)} for run in runs]
        print(json.dumps({"file": str(output), "runs": loaded}, indent=2))
        return
    print(printable(f"written: {output}"))
