"""Takes a run out of the store, a little at a time, and remembers what was taken.

A sender may still have items of a deleted run: ones whose acknowledgement was lost, and ones that it made since. The
first are acknowledged and stay deleted, the second are kept, so that nothing is lost and nothing comes back by halves.
What is numbered below the last stored item and comes late belongs to what was deleted, and goes the way of the first.
A training that only has the same name and number is another one, and begins anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Table, bindparam, delete, func, insert, select, update

from monitor.service.storage.tables.schema import attempts, curve_values, deleted_attempts, items, thinned_runs, totals
from monitor.wire.monitor_pb2 import Item, Registration

# Items of a large model take a megabyte each, rows of the index a hundred bytes.
_ITEMS_AT_A_TIME = 50
_ROWS_AT_A_TIME = 1000


@dataclass(frozen=True, slots=True)
class Deleted:
    """What is gone from a store, or going.

    Attributes:
        last: by run and attempt, the highest number of an item that was stored.
        under_way: ids of runs of which some rows are still there. Nothing more of them is taken.
    """

    last: dict[tuple[str, int], int] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)


class Removed(NamedTuple):
    """What one transaction took away."""

    rows: int
    items: int


class Returned(NamedTuple):
    """An attempt that was deleted and is registered again.

    Attributes:
        finish: how it had ended, None where it had not.
    """

    last_sequence: int
    finish: Item | None
    deleted_at: float


def known(connection: Connection) -> Deleted:
    """Read what is gone, and what is going."""
    found = Deleted()
    table = deleted_attempts.c
    for row in connection.execute(select(table.run_id, table.attempt, table.last_sequence, table.under_way)):
        found.last[row.run_id, row.attempt] = row.last_sequence
        if row.under_way:
            found.under_way.add(row.run_id)
    return found


def begin(connection: Connection, run_id: str, now: float) -> None:
    """Decide that a run goes, with all its attempts. From then on it counts as gone."""
    before = {row.attempt: row for row in connection.execute(select(deleted_attempts).where(_of(run_id)))}
    for attempt in connection.execute(select(attempts).where(attempts.c.run_id == run_id)).all():
        row = _row(connection, attempt, now)
        if attempt.attempt in before:
            earlier = before[attempt.attempt]
            # A registration that differs has been told apart when it came, see `returned`.
            row["last_sequence"] = max(row["last_sequence"], earlier.last_sequence)
            connection.execute(delete(deleted_attempts).where(_of(run_id, attempt.attempt)))
        connection.execute(insert(deleted_attempts), row)


def go_on(connection: Connection, run_id: str) -> Removed:
    """Take away some rows of a run that goes; none means that all are gone."""
    going = select(deleted_attempts.c.attempt).where(_of(run_id), deleted_attempts.c.under_way == 1).limit(1)
    if connection.execute(going).first() is None:
        return Removed(0, 0)
    if count := _take(connection, items, run_id, _ITEMS_AT_A_TIME):
        return Removed(count, count)
    for table in (totals, curve_values):
        if count := _take(connection, table, run_id, _ROWS_AT_A_TIME):
            return Removed(count, 0)
    for table in (thinned_runs, attempts):
        connection.execute(delete(table).where(table.c.run_id == run_id))
    connection.execute(update(deleted_attempts).where(_of(run_id)).values(under_way=0))
    return Removed(0, 0)


def returned(connection: Connection, registration: Registration) -> Returned | None:
    """Return what is remembered of this very attempt, None if it was not deleted; forget another of its name."""
    of_attempt = _of(registration.run_id, registration.attempt)
    row = connection.execute(select(deleted_attempts).where(of_attempt)).first()
    if row is None:
        return None
    if row.digest != digest_of(registration):
        connection.execute(delete(deleted_attempts).where(of_attempt))
        return None
    finish = None if row.finish is None else Item.FromString(row.finish)
    return Returned(row.last_sequence, finish, row.deleted_at)


def deleted_at(connection: Connection, run_id: str, attempt: int) -> float | None:
    """Return when what a run had reported up to its latest attempt was deleted, None if it was not."""
    of_it = (_of(run_id), deleted_attempts.c.attempt <= attempt)
    return connection.execute(select(func.max(deleted_attempts.c.deleted_at)).where(*of_it)).scalar()


def digest_of(registration: Registration) -> bytes:
    """Return what tells this training from others of its name."""
    return hashlib.sha256(registration.SerializeToString(deterministic=True)).digest()


def _row(connection: Connection, attempt: Row[Any], now: float) -> dict[str, Any]:
    of_attempt = (items.c.run_id == attempt.run_id, items.c.attempt == attempt.attempt)
    last = connection.execute(select(func.max(items.c.sequence)).where(*of_attempt)).scalar()
    finish = select(items.c.item).where(*of_attempt, items.c.kind == "finish").order_by(items.c.sequence.desc())
    return {
        "run_id": attempt.run_id,
        "attempt": attempt.attempt,
        "digest": digest_of(Registration.FromString(attempt.registration)),
        "last_sequence": last or 0,
        "finish": connection.execute(finish.limit(1)).scalar(),
        "deleted_at": now,
        "under_way": 1,
    }


def _take(connection: Connection, table: Table, run_id: str, most: int) -> int:
    key = list(table.primary_key.columns)
    rows = connection.execute(select(*key).where(table.c.run_id == run_id).limit(most)).mappings().all()
    if rows:
        this_one = [column == bindparam(f"the_{column.name}") for column in key]
        connection.execute(delete(table).where(*this_one), [{f"the_{name}": row[name] for name in row} for row in rows])
    return len(rows)


def _of(run_id: str, attempt: int | None = None) -> ColumnElement[bool]:
    of_run = deleted_attempts.c.run_id == run_id
    return of_run if attempt is None else of_run & (deleted_attempts.c.attempt == attempt)
