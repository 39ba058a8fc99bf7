"""The lock on a store in PostgreSQL: whoever has the connection that writes has it, and only so long."""

from __future__ import annotations

import selectors
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, event

from monitor.service.errors import LostStoreError, StoreInUseError

_WAIT_SECONDS = 3

# A store is a schema of a database.
_LOCK = "1936748915, hashtext(current_schema())"
_HOLDER = """
    SELECT activity.application_name, activity.client_addr, date_trunc('second', activity.backend_start)
    FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND classid = 1936748915
        AND objid = (hashtext(current_schema())::bigint & 4294967295)::oid
        AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def lock_with(engine: Engine) -> None:
    """Have the first connection of an engine take the lock, and give it back when it is closed.

    It is taken once. After the connection was lost, another service may have had the store, so that nothing that is
    known of it holds any more: there is no second connection.

    Connecting raises:
        StoreInUseError: another service has it.
        LostStoreError: there was a connection before.
    """
    lock = _Lock()
    event.listen(engine, "do_connect", lock.before)
    event.listen(engine, "connect", lock.take)
    event.listen(engine, "close", _give_back)


def holder(connection: Connection) -> str | None:
    """Return which service has the store, in words; None where none has it."""
    found = connection.exec_driver_sql(_HOLDER).first()
    return None if found is None else _described(found)


class _Lock:
    """Taken, or not yet."""

    def __init__(self) -> None:
        self._taken = False

    def before(self, *_of_connection: object) -> None:
        if self._taken:
            raise LostStoreError(
                "the connection to the database was lost, and with it the lock on the store. Nothing of this was "
                "stored; senders try again by themselves"
            )

    def take(self, connection: Any, _record: object) -> None:
        _take(connection)
        self._taken = True


def _take(connection: Any) -> None:
    from psycopg.errors import LockNotAvailable

    cursor = connection.cursor()
    try:
        # A service that was killed just now is still being noticed.
        cursor.execute(f"SET LOCAL lock_timeout = {_WAIT_SECONDS * 1000}")
        cursor.execute(f"SELECT pg_advisory_lock({_LOCK})")
        connection.commit()
    except LockNotAvailable as error:
        connection.rollback()
        cursor.execute(_HOLDER)
        found = cursor.fetchone()
        who = "another service" if found is None else _described(found)
        connection.close()
        raise StoreInUseError(
            f"the store in this database is served already, by {who}. Report to that service, stop it, have this one "
            "take over when that ends with --standby, or give another place with --store-url"
        ) from error
    finally:
        cursor.close()


def _give_back(connection: Any, _record: object) -> None:
    """Let the next service have the store at once, and not when the server notices that the connection was closed.

    A server that does not answer is not waited for longer than for the lock, and notices later.
    """
    from psycopg import OperationalError
    from psycopg.pq import TransactionStatus

    if connection.info.transaction_status != TransactionStatus.IDLE:
        # It was lost, and the lock with it; or closing it ends more than the lock.
        return
    try:
        connection.pgconn.send_query(b"SELECT pg_advisory_unlock_all()")
    except OperationalError:
        # Lost unnoticed.
        return
    with selectors.DefaultSelector() as answer:
        answer.register(connection.pgconn.socket, selectors.EVENT_READ)
        answer.select(_WAIT_SECONDS)


def _described(holder: Sequence[object]) -> str:
    return f"{holder[0]} (connected from {holder[1] or 'there'} since {holder[2]})"
