"""Curves as tables, a row for each point: CSV, and Arrow where pyarrow is installed."""

from __future__ import annotations

import csv as writer
import io
from collections.abc import Iterator, Mapping
from importlib import import_module

from fastapi import HTTPException

from monitor.service.quantities.fields import LOGGED
from monitor.service.storage.queries.curves import Curve
from monitor.service.storage.stored import Thinned

ARROW = "application/vnd.apache.arrow.stream"
COLUMNS = ("field", "step", "time", "min", "max", "last", "one_left_in")
"""The columns, in this order."""
_Row = tuple[str, int, float, float | None, float | None, float | None, int]


def csv(curves: Mapping[str, Curve], thinned: Thinned | None) -> bytes:
    """Return the points as UTF-8, with a header; an empty cell is no number.

    The last column says that the run was thinned: of the observations there, at least one in so many is left.
    """
    text = io.StringIO()
    table = writer.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(_rows(curves, thinned))
    return text.getvalue().encode()


def arrow(curves: Mapping[str, Curve], thinned: Thinned | None) -> bytes:
    """Return the points as a stream of Arrow, with the same columns."""
    try:
        pyarrow, ipc = import_module("pyarrow"), import_module("pyarrow.ipc")
    except ModuleNotFoundError as error:
        raise HTTPException(
            406, "format: this service writes Arrow where pyarrow is installed beside it; ask for csv, or json"
        ) from error
    kinds = (pyarrow.string(), pyarrow.int64(), *[pyarrow.float64()] * 4, pyarrow.int64())
    columns = list(zip(*_rows(curves, thinned), strict=True)) or [()] * len(COLUMNS)
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    table = pyarrow.table(dict(zip(COLUMNS, arrays, strict=True)))
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def _rows(curves: Mapping[str, Curve], thinned: Thinned | None) -> Iterator[_Row]:
    for name, curve in curves.items():
        for point in zip(curve.step, curve.time, curve.minimum, curve.maximum, curve.last, strict=True):
            yield (name, *point, _one_left_in(name, point[0], thinned))


def _one_left_in(name: str, step: int, thinned: Thinned | None) -> int:
    # What the trainer logged stays.
    return 1 if thinned is None or name.startswith(LOGGED) or step > thinned.until_step else thinned.every
