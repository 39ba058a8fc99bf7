"""Brings a store of an older version up to date, in the transaction that opens it: all of it or nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from sqlalchemy import Connection, Row, select, update

from monitor.service.errors import StoreError, shortened
from monitor.service.storage.tables.index_rows import Index, Rows
from monitor.service.storage.tables.schema import (
    SCHEMA_VERSION,
    attempts,
    curve_values,
    deleted_attempts,
    items,
    schema_version,
    thinned_runs,
    totals,
)
from monitor.wire.monitor_pb2 import Item, Registration

logger = logging.getLogger(__name__)

_PAGE_ITEMS = 50
_TELL_SECONDS = 10


def migrate(connection: Connection, found: int) -> None:
    """Bring the tables from version `found` to the present one. The caller commits."""
    for version in range(found, SCHEMA_VERSION):
        _STEPS[version](connection)
    connection.execute(update(schema_version).values(version=SCHEMA_VERSION))


def _make_curves(connection: Connection) -> None:
    """Version 2 has an index of curves beside the items, see index.py."""
    for table in (totals, curve_values):
        table.create(connection)
    done, told_at = 0, time.monotonic()
    for attempt in connection.execute(select(attempts)).all():
        index = Index(Registration.FromString(attempt.registration))
        for page in _pages(connection, attempt.run_id, attempt.attempt):
            # One at a time: those of a large model take a megabyte each, and several once they are read.
            rows = Rows()
            for row in page:
                rows += index.of(_item(row, attempt.run_id, attempt.attempt))
            rows.write(connection)
            done += len(page)
            if time.monotonic() - told_at > _TELL_SECONDS:
                logger.info("%d items are indexed; the service answers when all are", done)
                told_at = time.monotonic()


def _item(row: Row[Any], run_id: str, attempt: int) -> Item:
    try:
        return Item.FromString(row.item)
    except DecodeError as error:
        raise StoreError(
            f"the store is damaged: item {row.sequence} of attempt {attempt} of run {shortened(run_id)} cannot be "
            "read. Nothing was changed: delete that row of the table items, or give another store with --store-url"
        ) from error


def _pages(connection: Connection, run_id: str, attempt: int) -> Iterator[list[Row[Any]]]:
    last = 0
    while True:
        of_attempt = (items.c.run_id == run_id, items.c.attempt == attempt, items.c.sequence > last)
        query = select(items.c.sequence, items.c.item).where(*of_attempt).order_by(items.c.sequence).limit(_PAGE_ITEMS)
        page: list[Row[Any]] = [*connection.execute(query)]
        if not page:
            return
        yield page
        last = page[-1].sequence


def _make_tables_of_what_went(connection: Connection) -> None:
    """Version 3 remembers what was deleted, and what was thinned."""
    for table in (deleted_attempts, thinned_runs):
        table.create(connection)


# The version that a step starts from → the step.
_STEPS = {1: _make_curves, 2: _make_tables_of_what_went}
