"""Writes the curves of a run to a file that is there whole or not at all, or to standard output."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import track

from monitor.commands.export.as_csv import write_csv
from monitor.commands.export.as_openmetrics import LOGGED, has_metric, write_openmetrics
from monitor.commands.export.as_parquet import write_parquet
from monitor.commands.export.form import Format
from monitor.commands.export.series import Series, all_series
from monitor.errors import ConfigurationError, ReportingError, name_some
from monitor.notebook.interface import Interface, Json, what_went
from monitor.terminal import printable

_FIELDS_SHOWN = 40
_ENDINGS = {
    ".csv": Format.CSV,
    ".om": Format.OPENMETRICS,
    ".openmetrics": Format.OPENMETRICS,
    ".parquet": Format.PARQUET,
}
_WRITERS: dict[Format, Callable[[BinaryIO, Json, Iterable[Series]], None]] = {
    Format.CSV: write_csv,
    Format.OPENMETRICS: write_openmetrics,
    Format.PARQUET: write_parquet,
}


def export(interface: Interface, name: str, output: Path | None, form: Format | None, fields: Sequence[str]) -> None:
    """Write curves of a run.

    Args:
        name: the run's id, or its name.
        output: None for standard output.
        form: by default what the name of the file ends in, CSV on standard output.
        fields: names of curves; none for all.

    Raises:
        ConfigurationError: the file cannot be written, or not in such a form.
        ReportingError: the service cannot be reached, or has no such run or curve, or none of its points.
    """
    form = form or _form_of(output)
    if output is None and form is Format.PARQUET:
        raise ConfigurationError("Parquet is written to a file: say which with --output")
    if output is not None:
        _check_new(output)
    run = interface.run(name)
    wanted = _wanted(run, form, fields)
    series = all_series(interface, run, _with_progress(wanted, among_output=output is None))
    first = next(series, None)
    if first is None:
        raise ReportingError(f"run {run['run_id']} has no point of {', '.join(fields) if fields else 'any curve'} yet")
    with _file(output) as file:
        _WRITERS[form](file, run, (each for some in ([first], series) for each in some))
    for remark in what_went(run):
        print(printable(remark), file=sys.stderr)


def _form_of(output: Path | None) -> Format:
    if output is None:
        return Format.CSV
    if output.suffix not in _ENDINGS:
        raise ConfigurationError(
            f"--output is {str(output)!r}; expected a name that ends in {', '.join(_ENDINGS)}, or say --format"
        )
    return _ENDINGS[output.suffix]


def _check_new(output: Path) -> None:
    if os.path.lexists(output):
        raise ConfigurationError(f"--output is {str(output)!r}, which is there already: it is kept. Give another name")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise ConfigurationError(f"--output is {str(output)!r}; expected a file in a directory that can be written to")


def _wanted(run: Json, form: Format, fields: Sequence[str]) -> list[str]:
    known = [field["name"] for field in run["fields"]]
    for unknown in set(fields) - set(known):
        has = name_some([printable(each) for each in known], _FIELDS_SHOWN)
        raise ConfigurationError(f"--field {unknown!r}: run {run['run_id']} has no such curve; it has {has}")
    wanted = list(dict.fromkeys(fields)) or known
    if form is not Format.OPENMETRICS:
        return wanted
    # Those that become one metric come one after the other.
    metrics = sorted(filter(has_metric, wanted), key=lambda name: name.startswith(LOGGED))
    if not metrics:
        raise ConfigurationError(
            f"--field: /metrics has nothing of {', '.join(wanted)}; sparsities follow from its counts, such as changed"
        )
    return metrics


def _with_progress(fields: Sequence[str], *, among_output: bool) -> Iterable[str]:
    # A bar would stand between the lines of what is printed to the same terminal.
    wanted = sys.stderr.isatty() and not (among_output and sys.stdout.isatty())
    return track(fields, "reading curves", console=Console(stderr=True), transient=True, disable=not wanted)


@contextmanager
def _file(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        return
    with tempfile.TemporaryDirectory(prefix=".export-", dir=output.parent) as directory:
        partial = Path(directory) / "partial"
        with partial.open("wb") as file:
            yield file
        partial.replace(output)
