"""What a store holds, read beside a service that may be writing to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, case, func, select
from sqlalchemy.exc import SQLAlchemyError

from monitor.service.storage.opening import cannot_open, first_line, open_to_read
from monitor.service.storage.queries import deletion, sizes, thinning
from monitor.service.storage.stored import Thinned
from monitor.service.storage.tables.schema import attempts, items


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a store holds of one run.

    Attributes:
        bytes: of its items, without the index.
        heard_at: when the service last heard of it, in seconds since 1970-01-01 UTC.
        thinned: what was taken out between its observations, None if nothing was.
    """

    run_id: str
    attempts: int
    observations: int
    items: int
    bytes: int
    heard_at: float
    thinned: Thinned | None


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a store holds.

    Attributes:
        runs: the longest silent first.
        deleted: attempts that were deleted, of which only their number is remembered.
        used_bytes, file_bytes: of a SQLite file, None of a database server.
    """

    runs: list[RunFacts]
    deleted: int
    used_bytes: int | None
    file_bytes: int | None


def read(url: str) -> StoreFacts:
    """Read what the store at `url` holds. Nothing is changed, and whoever serves it goes on.

    Raises:
        StoreError: there is no store, it cannot be read, or it is of another version.
    """
    engine = open_to_read(url)
    try:
        with engine.connect() as connection:
            gone = deletion.known(connection)
            held = sizes.pages(connection) if engine.dialect.name == "sqlite" else None
            return StoreFacts(
                runs=[run for run in _runs(connection) if run.run_id not in gone.under_way],
                deleted=len(gone.last),
                used_bytes=held[0] if held else None,
                file_bytes=held[1] if held else None,
            )
    except SQLAlchemyError as error:
        raise cannot_open(url, first_line(error)) from error
    finally:
        engine.dispose()


def _runs(connection: Connection) -> list[RunFacts]:
    counts = (
        func.sum(case((items.c.kind == "observation", 1), else_=0)),
        func.count(),
        func.sum(func.length(items.c.item)),
    )
    held = {row[0]: row[1:] for row in connection.execute(select(items.c.run_id, *counts).group_by(items.c.run_id))}
    of_run = select(attempts.c.run_id, func.count(), func.max(attempts.c.heard_at)).group_by(attempts.c.run_id)
    runs = [
        RunFacts(run_id, number, *_integers(held.get(run_id, (0, 0, 0))), heard_at, thinning.of_run(connection, run_id))
        for run_id, number, heard_at in connection.execute(of_run).all()
    ]
    return sorted(runs, key=lambda run: (run.heard_at, run.run_id))


def _integers(row: Sequence[int | Decimal]) -> tuple[int, int, int]:
    # PostgreSQL adds up to decimals.
    observations, count, size = map(int, row)
    return observations, count, size
