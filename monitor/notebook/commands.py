"""The command `sparsity-monitor report`. It imports what it needs, so that no other command pays for it."""

from __future__ import annotations

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

    @app.command()
    def report(
        runs: Annotated[list[str], _Runs],
        *,
        output: Annotated[Path, typer.Option("--output", "-o", help="The page, whose name ends in .html.")],
    ) -> None:
        """Write runs into one page that needs nothing else: curves, layers, overlap, and what is measured."""
        with errors_in_words():
            _report(runs, output)


def _report(sources: list[str], output: Path) -> None:
    from monitor.analysis.outputs import check_report
    from monitor.notebook.load import opened
    from monitor.notebook.page import page_of

    check_report("--output", output)
    runs = [opened(source) for source in sources]
    for run in runs:
        for remark in run.described.remarks:
            print(printable(f"{run.run_id}: {remark}"), file=sys.stderr)
    page_of(runs).write(output)
    print(printable(f"written: {output}"))
