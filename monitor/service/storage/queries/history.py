"""Queries over the items of a run, in the order of their steps and without what a later attempt superseded.

That is worked out when it is read, never stored: attempts may arrive in any order.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Row, Select, exists, func, not_, select, tuple_

from monitor.service.storage.stored import Position, StoredItem
from monitor.service.storage.tables.schema import attempts, items
from monitor.wire.monitor_pb2 import Finish, Item


def page(connection: Connection, run_id: str, after: Position, limit: int, kind: str | None) -> list[StoredItem]:
    """Return at most `limit` items behind `after`, of one kind or of all."""
    place = (items.c.step, items.c.attempt, items.c.sequence)
    wanted = _history_of(run_id).where(tuple_(*place) > after).order_by(*place).limit(limit)
    if kind is not None:
        wanted = wanted.where(items.c.kind == kind)
    return [_stored_item(row) for row in connection.execute(wanted)]


def latest(connection: Connection, run_id: str, kind: str, limit: int) -> list[StoredItem]:
    """Return the last `limit` items of a kind, the newest first."""
    newest_first = (items.c.step.desc(), items.c.attempt.desc(), items.c.sequence.desc())
    query = _history_of(run_id).where(items.c.kind == kind).order_by(*newest_first).limit(limit)
    return [_stored_item(row) for row in connection.execute(query)]


def count_observations(connection: Connection, run_id: str) -> int:
    """Return the number of observations."""
    query = select(func.count()).where(items.c.run_id == run_id, items.c.kind == "observation", not_(_superseded()))
    return connection.execute(query).scalar_one()


def finish_of(connection: Connection, run_id: str, attempt: int) -> Finish | None:
    """Return how the attempt ended, None while it goes on."""
    of_attempt = (items.c.run_id == run_id, items.c.kind == "finish", items.c.attempt == attempt)
    row = connection.execute(
        select(items.c.item).where(*of_attempt).order_by(items.c.sequence.desc()).limit(1)
    ).scalar()
    return None if row is None else Item.FromString(row).finish


def observed_at(connection: Connection, run_id: str, attempt: int, limit: int) -> list[float]:
    """Return when the last `limit` observations of an attempt were made, in the order of their numbers."""
    of_attempt = (items.c.run_id == run_id, items.c.attempt == attempt, items.c.kind == "observation")
    newest_first = select(items.c.time).where(*of_attempt).order_by(items.c.sequence.desc()).limit(limit)
    return list(connection.execute(newest_first).scalars())[::-1]


def _superseded() -> ColumnElement[bool]:
    later = attempts.alias("later")
    return exists().where(
        later.c.run_id == items.c.run_id,
        later.c.attempt > items.c.attempt,
        later.c.resumed_from_step < items.c.step,
    )


def _history_of(run_id: str) -> Select[tuple[int, int, int, bytes]]:
    columns = (items.c.step, items.c.attempt, items.c.sequence, items.c.item)
    return select(*columns).where(items.c.run_id == run_id, not_(_superseded()))


def _stored_item(row: Row[tuple[int, int, int, bytes]]) -> StoredItem:
    return StoredItem(Position(row.step, row.attempt, row.sequence), Item.FromString(row.item))
