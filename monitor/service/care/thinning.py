"""Thins the observations of a run that has ended: the first, the last and every k-th stay, with all that was logged.

What a later attempt superseded is shown nowhere, and goes. The last item of each attempt stays whatever it is: its
number is how a sender knows what has arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, select, tuple_

from monitor.service import history
from monitor.service.curves.rows import names_of_observations
from monitor.service.curves.thinned import not_superseded
from monitor.service.schema import attempts, curve_values, items, totals
from monitor.service.stored import START, Position
from monitor.wire.monitor_pb2 import Registration

_OBSERVATIONS_AT_A_TIME = 50


@dataclass(frozen=True, slots=True)
class Thinning:
    """What stays of a run.

    Attributes:
        every: of the observations that are not superseded, each so-manieth stays.
        kept: positions of those that stay in any case.
        names: by attempt, what its observations are called in the index.
    """

    run_id: str
    every: int
    kept: frozenset[Position]
    names: dict[int, list[str]]


class Progress(NamedTuple):
    """How far a thinning has come.

    Attributes:
        after: the last position that was looked at, None when there is no more.
        seen: observations so far that are not superseded.
        removed: of these, those that went in the last transaction.
        superseded: those that went besides.
    """

    after: Position | None = START
    seen: int = 0
    removed: int = 0
    superseded: int = 0


def plan(connection: Connection, run_id: str, observations: int, keep: int) -> Thinning:
    """Decide what stays of a run.

    Args:
        observations: that the run has and that are not superseded.
        keep: how many of them may stay, at least 3.
    """
    registrations = connection.execute(
        select(attempts.c.attempt, attempts.c.registration).where(attempts.c.run_id == run_id)
    ).all()
    names = {row.attempt: names_of_observations(Registration.FromString(row.registration)) for row in registrations}
    kept = {each.position for each in history.latest(connection, run_id, "observation", 1)}
    for attempt in names:
        place = (items.c.step, items.c.attempt, items.c.sequence, items.c.kind)
        of_attempt = (items.c.run_id == run_id, items.c.attempt == attempt)
        newest = select(*place).where(*of_attempt).order_by(items.c.sequence.desc()).limit(1)
        kept |= {Position(*row[:3]) for row in connection.execute(newest) if row.kind == "observation"}
    every = -(-observations // max(1, keep - len(kept))) if observations > keep else 1
    return Thinning(run_id, every, frozenset(kept), names)


def go_on(connection: Connection, thinning: Thinning, progress: Progress) -> Progress:
    """Look at some more observations of the run, and take away those that do not stay."""
    place = (items.c.step, items.c.attempt, items.c.sequence)
    visible = not_superseded(items).label("visible")
    page = connection.execute(
        select(*place, visible)
        .where(items.c.run_id == thinning.run_id, items.c.kind == "observation", tuple_(*place) > progress.after)
        .order_by(*place)
        .limit(_OBSERVATIONS_AT_A_TIME)
    ).all()
    seen, removed, superseded = progress.seen, 0, 0
    doomed = []
    for row in page:
        position = Position(row.step, row.attempt, row.sequence)
        stays = position in thinning.kept or (row.visible and seen % thinning.every == 0)
        seen += bool(row.visible)
        if not stays:
            doomed.append(position)
            removed, superseded = removed + bool(row.visible), superseded + (not row.visible)
    _take(connection, thinning, doomed)
    after = Position(*page[-1][:3]) if len(page) == _OBSERVATIONS_AT_A_TIME else None
    return Progress(after, seen, removed, superseded)


def _take(connection: Connection, thinning: Thinning, doomed: list[Position]) -> None:
    for table in (items, totals, curve_values):
        key = [column for column in table.primary_key.columns if column.name != "run_id"]
        this_one = [column == bindparam(f"the_{column.name}") for column in key]
        rows = [
            {f"the_{column.name}": name if column.name == "name" else getattr(each, column.name) for column in key}
            for each in doomed
            for name in (thinning.names[each.attempt] if table is curve_values else [""])
        ]
        if rows:
            connection.execute(delete(table).where(table.c.run_id == thinning.run_id, *this_one), rows)
