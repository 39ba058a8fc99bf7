"""Counts per group over the steps: of the last observation in each bucket of steps, found by the index."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select, tuple_

from monitor.service.curves.thinned import Range, not_superseded
from monitor.service.schema import items, totals
from monitor.service.stored import Position, StoredItem
from monitor.wire.monitor_pb2 import Item


def last_observations(connection: Connection, run_id: str, steps: Range) -> list[Position]:
    """Return where the last observation of each bucket is, in the order of steps."""
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
    return list(by_step.values())


def items_at(connection: Connection, run_id: str, positions: Sequence[Position]) -> list[StoredItem]:
    """Return those items that are still there, in the order of their positions, of which there may be a few hundred."""
    key = tuple_(items.c.attempt, items.c.sequence)
    wanted = key.in_([(each.attempt, each.sequence) for each in positions])
    query = select(items.c.attempt, items.c.sequence, items.c.item).where(items.c.run_id == run_id, wanted)
    found = {(row.attempt, row.sequence): row.item for row in connection.execute(query)}
    return [
        StoredItem(each, Item.FromString(item))
        for each in positions
        if (item := found.get((each.attempt, each.sequence))) is not None
    ]
