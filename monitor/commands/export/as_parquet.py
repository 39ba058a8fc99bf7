"""Curves as Parquet, with the columns of the CSV, where pyarrow is installed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import BinaryIO

from monitor.commands.export.as_csv import COLUMNS, one_left_in
from monitor.commands.export.series import Series
from monitor.errors import MissingLibraryError
from monitor.notebook.interface import Json


def write_parquet(file: BinaryIO, run: Json, series: Iterable[Series]) -> None:
    """Write a row group for each curve; null is no number.

    Raises:
        MissingLibraryError: pyarrow is not installed.
    """
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise MissingLibraryError("Parquet is written by pyarrow: pip install pyarrow, or export CSV") from error
    kinds = (*[arrow.string()] * 5, arrow.int64(), arrow.float64(), arrow.float64(), arrow.int64())
    schema = arrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with parquet.ParquetWriter(file, schema) as writer:
        for each in series:
            named = (run["run_id"], run["criterion"], run["visible_dtype"], each.field, each.unit)
            left = [one_left_in(run, each.field, point.step) for point in each.points]
            columns = [[name] * len(each.points) for name in named] + [*map(list, zip(*each.points, strict=True)), left]
            arrays = [arrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
            writer.write_table(arrow.table(arrays, schema=schema))
