"""Counts per group over the steps: of the last observation in each bucket of steps, found by the index."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import CTE, BigInteger, Connection, case, literal, select

from monitor.service.storage.queries.curves import Range, not_superseded
from monitor.service.storage.stored import Position, StoredItem
from monitor.service.storage.tables.schema import items, totals
from monitor.wire.monitor_pb2 import Item


def last_observations(connection: Connection, run_id: str, steps: Range) -> list[Position]:
    """Return where the last observation of each bucket is, in the order of steps.

    Each bucket looks for its own, backwards from its end: what lies between is not read, however long the run is.
    """
    first = _buckets(steps)
    # Behind the last bucket there are no steps that the databases hold.
    end = case((first.c.step > steps.last - steps.width, steps.last), else_=first.c.step + (steps.width - 1))
    of_bucket = (totals.c.run_id == run_id, totals.c.step.between(first.c.step, end), not_superseded(totals))
    last = (
        select(totals.c.step).where(*of_bucket).order_by(totals.c.step.desc()).limit(1).correlate(first)
    ).scalar_subquery()
    found = [step for step in connection.execute(select(last).select_from(first)).scalars() if step is not None]
    query = (
        select(totals.c.step, totals.c.attempt, totals.c.sequence)
        .where(totals.c.run_id == run_id, totals.c.step.in_(found), not_superseded(totals))
        .order_by(totals.c.step, totals.c.attempt, totals.c.sequence)
    )
    by_step = {row.step: Position(*row) for row in connection.execute(query)}
    return list(by_step.values())


def _buckets(steps: Range) -> CTE:
    """Return the first step of each bucket."""
    first = select(literal(steps.first, BigInteger).label("step")).cte("buckets", recursive=True)
    return first.union_all(select(first.c.step + steps.width).where(first.c.step <= steps.last - steps.width))


def items_at(connection: Connection, run_id: str, positions: Sequence[Position]) -> list[StoredItem]:
    """Return those items that are still there, in the order of their positions, of which there may be a few hundred."""
    found = {}
    # Attempt by attempt: SQLite looks a pair of numbers up in no index.
    for attempt in {each.attempt for each in positions}:
        wanted = items.c.sequence.in_([each.sequence for each in positions if each.attempt == attempt])
        query = select(items.c.sequence, items.c.item).where(
            items.c.run_id == run_id, items.c.attempt == attempt, wanted
        )
        found.update({(attempt, row.sequence): row.item for row in connection.execute(query)})
    return [
        StoredItem(each, Item.FromString(item))
        for each in positions
        if (item := found.get((each.attempt, each.sequence))) is not None
    ]
