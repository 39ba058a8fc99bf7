"""Every point of a run's curves, from /api/v1: nothing is thinned, however many steps there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from monitor.commands.interface import Interface, Json, run_path

_POINTS = 10_000
"""As many as the interface gives in one answer."""


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
        if points := list(_points(interface, run["run_id"], field, {})):
            yield Series(field, units.get(field, ""), points)


def _points(interface: Interface, run_id: str, field: str, limits: dict[str, int]) -> Iterator[Point]:
    answer = interface.get(run_path(run_id, "/history"), fields=[field], points=_POINTS, **limits)
    curve = answer["curves"].get(field)
    if curve is None:
        return
    width = answer["bucket_steps"]
    if width == 1:
        # A bucket of one step has one value, its last.
        yield from map(Point, curve["step"], curve["time"], curve["last"])
        return
    # Asked for again in parts that begin where a bucket does. Of a bucket that has a value, the last step is known.
    size = width * max(1, _POINTS // width)
    first = answer["from_step"]
    for part in sorted({(step - first) // size for step in curve["step"]}):
        start = first + part * size
        last = min(start + size - 1, answer["to_step"])
        yield from _points(interface, run_id, field, {"from_step": start, "to_step": last})
