"""Counts per group over the steps: of the last observation in each bucket of steps, found by the index."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select, tuple_

from monitor.service.curves.thinned import Range, not_superseded
from monitor.service.schema import items, totals
from monitor.service.stored import Position, StoredItem
from monitor.wire.monitor_pb2 import Item

_AT_A_TIME = 500


def last_observations(connection: Connection, run_id: str, steps: Range) -> list[StoredItem]:
    """Return the last observation of each bucket, in the order of steps."""
    within = (totals.c.run_id == run_id, totals.c.step.between(steps.first, steps.last), not_superseded(totals))
    bucket = ((totals.c.step - steps.first) // steps.width).label("bucket")
    last = select(bucket, func.max(totals.c.step).label("step")).where(*within).group_by("bucket").subquery()
    query = (
        select(totals.c.step, totals.c.attempt, totals.c.sequence)
        .select_from(last)
        .join(totals, (totals.c.run_id == run_id) & (totals.c.step == last.c.step) & not_superseded(totals))
        .order_by(totals.c.step, totals.c.attempt, totals.c.sequence)
    )
    by_step = {row.step: Position(*row) for row in connection.execute(query)}
    return _read(connection, run_id, list(by_step.values()))


def _read(connection: Connection, run_id: str, positions: Sequence[Position]) -> list[StoredItem]:
    key = tuple_(items.c.attempt, items.c.sequence)
    found: dict[tuple[int, int], bytes] = {}
    for start in range(0, len(positions), _AT_A_TIME):
        wanted = [(each.attempt, each.sequence) for each in positions[start : start + _AT_A_TIME]]
        query = select(items.c.attempt, items.c.sequence, items.c.item)
        for row in connection.execute(query.where(items.c.run_id == run_id, key.in_(wanted))):
            found[row.attempt, row.sequence] = row.item
    return [StoredItem(each, Item.FromString(found[each.attempt, each.sequence])) for each in positions]
