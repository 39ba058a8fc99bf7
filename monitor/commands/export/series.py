"""Every point of a run's curves, from /api/v1: nothing is thinned, however many steps there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from monitor.notebook.interface import Interface, Json
from monitor.notebook.whole import POINTS, whole


class Point(NamedTuple):
    """One value of a curve.

    Attributes:
        time: in seconds since 1970-01-01 UTC, by the run's clock; None where that is no number.
        value: None where it was NaN or infinite, or not measured.
    """

    step: int
    time: float | None
    value: float | None


class Series(NamedTuple):
    """One curve, in the order of its steps. `unit` as in the run's `fields`."""

    field: str
    unit: str
    points: list[Point]


def all_series(interface: Interface, run: Json, fields: Iterable[str]) -> Iterator[Series]:
    """Return the curves of these names, one after the other; those that have no point are left out.

    Raises:
        ReportingError: the service does not know such a curve, or cannot be reached.
    """
    units = {field["name"]: field["unit"] for field in run["fields"]}
    for field in fields:
        if points := list(_points(interface, run["run_id"], field)):
            yield Series(field, units.get(field, ""), points)


def _points(interface: Interface, run_id: str, field: str) -> Iterator[Point]:
    for answer in whole(interface, ("runs", run_id, "history"), {"fields": [field], "points": POINTS}):
        if curve := answer["curves"].get(field):
            # A bucket of one step has one value, its last.
            yield from map(Point, curve["step"], curve["time"], curve["last"])
