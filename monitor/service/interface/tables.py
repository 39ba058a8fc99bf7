"""Curves as tables, a row for each point: CSV, and Arrow where pyarrow is installed."""

from __future__ import annotations

import csv as writer
import io
from collections.abc import Iterator, Mapping
from importlib import import_module

from fastapi import HTTPException

from monitor.service.curves.thinned import Curve

ARROW = "application/vnd.apache.arrow.stream"
COLUMNS = ("field", "step", "time", "min", "max", "last")
"""The columns, in this order."""
_Row = tuple[str, int, float, float | None, float | None, float | None]


def csv(curves: Mapping[str, Curve]) -> bytes:
    """Return the points as UTF-8, with a header; an empty cell is no number."""
    text = io.StringIO()
    table = writer.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(_rows(curves))
    return text.getvalue().encode()


def arrow(curves: Mapping[str, Curve]) -> bytes:
    """Return the points as a stream of Arrow."""
    try:
        pyarrow, ipc = import_module("pyarrow"), import_module("pyarrow.ipc")
    except ModuleNotFoundError as error:
        raise HTTPException(
            406, "format: this service writes Arrow where pyarrow is installed beside it; ask for csv, or json"
        ) from error
    kinds = (pyarrow.string(), pyarrow.int64(), *[pyarrow.float64()] * 4)
    columns = list(zip(*_rows(curves), strict=True)) or [()] * len(COLUMNS)
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    table = pyarrow.table(dict(zip(COLUMNS, arrays, strict=True)))
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def _rows(curves: Mapping[str, Curve]) -> Iterator[_Row]:
    for name, curve in curves.items():
        for point in zip(curve.step, curve.time, curve.minimum, curve.maximum, curve.last, strict=True):
            yield (name, *point)
