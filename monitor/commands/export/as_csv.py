"""Curves as CSV: a row for each point, each with how the run counts what changed, and how many of its like are left."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import BinaryIO

from monitor.commands.export.series import Series
from monitor.notebook.interface import Json
from monitor.service.quantities.fields import LOGGED

COLUMNS = ("run", "criterion", "visible_dtype", "field", "unit", "step", "time", "value", "one_left_in")
_COUNTED = ("weights", "bytes", "steps")


def write_csv(file: BinaryIO, run: Json, series: Iterable[Series]) -> None:
    """Write UTF-8 with a header; an empty cell is no number."""
    _write(file, [COLUMNS])
    for each in series:
        named = (run["run_id"], run["criterion"], run["visible_dtype"], each.field, each.unit)
        rows = ((*named, step, time, _shown(value, each.unit)) for step, time, value in each.points)
        _write(file, ((*row, one_left_in(run, each.field, row[5])) for row in rows))


def one_left_in(run: Json, field: str, step: int) -> int:
    """Return in how many observations around a step one is left, at least: 1, unless they were thinned there."""
    thinned = run.get("thinned")
    # What the trainer logged stays.
    if thinned is None or field.startswith(LOGGED) or step > thinned["until_step"]:
        return 1
    return int(thinned["every"])


def _write(file: BinaryIO, rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    file.write(text.getvalue().encode())


def _shown(value: float | None, unit: str) -> float | int | None:
    return int(value) if value is not None and unit in _COUNTED else value
