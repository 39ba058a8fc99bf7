"""Thins the observations of a run that has ended: the first, the last and every k-th stay, with all that was logged.

What a later attempt superseded is shown nowhere, and goes. The last item of each attempt stays whatever it is: its
number is how a sender knows what has arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, select, tuple_

from monitor.limits import MAX_INTEGER
from monitor.service.storage.queries import history
from monitor.service.storage.queries.curves import not_superseded
from monitor.service.storage.stored import START, Position, Thinned
from monitor.service.storage.tables.index_rows import names_of_observations
from monitor.service.storage.tables.schema import attempts, curve_values, items, thinned_runs, totals
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
        thinned: what can be said of the run since, None before the first went.
    """

    after: Position | None = START
    seen: int = 0
    removed: int = 0
    superseded: int = 0
    thinned: Thinned | None = None


def of_run(connection: Connection, run_id: str) -> Thinned | None:
    """Return what was taken out between the observations of a run, None if nothing."""
    columns = (thinned_runs.c.every, thinned_runs.c.until_step, thinned_runs.c.removed)
    row = connection.execute(select(*columns).where(thinned_runs.c.run_id == run_id)).first()
    return None if row is None else Thinned(*row)


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
    thinned = progress.thinned
    if removed:
        thinned = _remember(connection, thinning, removed, page[-1].step, is_first=thinned is None)
    return Progress(after, seen, removed, superseded, thinned)


def _remember(connection: Connection, thinning: Thinning, removed: int, step: int, *, is_first: bool) -> Thinned:
    """Add what went to what is known of the run. What was thinned already is thinned once more: both factors count."""
    before = of_run(connection, thinning.run_id) or Thinned(1, 0, 0)
    every = min(before.every * (thinning.every if is_first else 1), MAX_INTEGER)
    now = Thinned(every, max(before.until_step, step), before.removed + removed)
    connection.execute(delete(thinned_runs).where(thinned_runs.c.run_id == thinning.run_id))
    values = {"every": now.every, "until_step": now.until_step, "removed": now.removed}
    connection.execute(insert(thinned_runs).values(run_id=thinning.run_id, **values))
    return now


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
