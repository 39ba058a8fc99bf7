"""Opens the store: SQLite by default, PostgreSQL by URL. Makes its tables, or brings older ones up to date."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from monitor.service.errors import MissingStoreError, StoreError, StoreVersionError
from monitor.service.settings import hide_password
from monitor.service.storage.lock import lock_with
from monitor.service.storage.remedies import no_store_at, remedy
from monitor.service.storage.sqlite_file.backup import back_up
from monitor.service.storage.sqlite_file.kind import check_kind, check_tables
from monitor.service.storage.sqlite_file.network import journal_mode
from monitor.service.storage.sqlite_file.reserve import RESERVE_BYTES, is_full
from monitor.service.storage.tables.migrations import migrate
from monitor.service.storage.tables.schema import SCHEMA_VERSION, metadata, schema_version

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 10

# What is said on a full disk; SQLite calls it an I/O error where there is no room for the index of its log.
_WITHOUT_ROOM = ("is full", "no space left", "i/o error", "unable to open")

# PostgreSQL cuts off longer ones.
_MAX_NAME = 63


def open_engine(url: str, *, again: bool = False) -> Engine:
    """Connect to the store at `url` and make its tables where they are missing.

    Args:
        again: it was there already, so that no tables mean that what was acknowledged is gone.

    Raises:
        MissingStoreError: it was there and is not any more.
        StoreError: it cannot be opened.
        StoreInUseError: another service has it. Of a file, its owner tells; see sqlite_file/owner.py.
        ForeignStoreError: it belongs to another program.
        StoreVersionError: a newer version of this program wrote it.
    """
    try:
        engine = _engine(make_url(url))
    except (ImportError, NoSuchModuleError) as error:
        raise _no_driver(url, error) from error
    return _looked_at(engine, url, _prepare_again if again else _prepare)


def open_to_read(url: str) -> Engine:
    """Connect to a store that is there and of this version, to read it while a service may be writing to it.

    Raises:
        MissingStoreError: there is none.
        StoreError: it cannot be opened.
        ForeignStoreError: it belongs to another program.
        StoreVersionError: another version of this program wrote it.
    """
    return _open_beside(url, _reading_engine)


def open_beside(url: str) -> Engine:
    """Do the same to write to it what no service writes.

    Raises:
        StoreError: see `open_to_read`.
    """
    return _open_beside(url, _second_engine)


def waiting_engine(url: str) -> Engine:
    """Return what asks, of a store in a database server, who has it, whatever version of this program that is.

    Raises:
        StoreError: there is no driver for it.
    """
    arguments = {
        "connect_timeout": _WAIT_SECONDS,
        "tcp_user_timeout": _WAIT_SECONDS * 1000,
        "options": f"-c default_transaction_read_only=on -c statement_timeout={_WAIT_SECONDS * 1000}",
    }
    try:
        return create_engine(
            make_url(url).set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_size=1,
            max_overflow=0,
            connect_args=arguments,
        )
    except (ImportError, NoSuchModuleError) as error:
        raise _no_driver(url, error) from error


def _open_beside(url: str, engine_of: Callable[[URL, Path | None], Engine]) -> Engine:
    path = file_of(url)
    try:
        if path is not None:
            check_kind(path, schema_version.name)
        if path is not None and not path.exists():
            raise MissingStoreError(no_store_at(path))
        engine = engine_of(make_url(url), path)
    except (ImportError, NoSuchModuleError) as error:
        raise _no_driver(url, error) from error
    except OSError as error:
        raise cannot_open(url, error.strerror or str(error)) from error
    return _looked_at(engine, url, _check_readable)


def _looked_at(engine: Engine, url: str, look: Callable[[Connection, str], None]) -> Engine:
    try:
        with engine.connect() as connection:
            look(connection, hide_password(url))
    except SQLAlchemyError as error:
        engine.dispose()
        raise cannot_open(url, first_line(error)) from error
    except StoreError:
        engine.dispose()
        raise
    return engine


def _check_readable(connection: Connection, shown_url: str) -> None:
    if not inspect(connection).has_table(schema_version.name):
        raise MissingStoreError(
            f"there is no store at {shown_url} yet: start the service on it, which makes one, or say with --store-url "
            "where another one is"
        )
    found = connection.execute(select(schema_version.c.version)).scalar_one()
    if found != SCHEMA_VERSION:
        what = "upgrade sparsity-monitor" if found > SCHEMA_VERSION else "start the service on it once"
        raise StoreVersionError(
            f"the store {shown_url} has schema version {found}; this program works on version {SCHEMA_VERSION}: {what}"
        )


def file_of(url: str) -> Path | None:
    """Return the file that the store is in, None where it is in a database server."""
    parsed = make_url(url)
    return Path.cwd() / str(parsed.database) if parsed.get_backend_name() == "sqlite" else None


def cannot_open(url: str, reason: str) -> StoreError:
    """Return the error for a store that cannot be opened."""
    path = file_of(url)
    if path is not None and any(sign in reason.lower() for sign in _WITHOUT_ROOM) and is_full(path):
        return StoreError(
            f"cannot open the store {hide_password(url)}: {reason}; its disk is full: make room there. "
            f"{RESERVE_BYTES / 1e6:.0f} MB are enough to remove runs, with `sparsity-monitor runs delete` or with "
            "--retain-days of a service, which frees more. Without them, move the store to another disk while no "
            "service has it"
        )
    otherwise = (
        "expected a database that this user can read and write; check that its directory exists and is writable, or "
        "that the database server answers"
    )
    return StoreError(f"cannot open the store {hide_password(url)}: {reason}; {remedy(reason, otherwise)}")


def _no_driver(url: str, error: Exception) -> StoreError:
    return StoreError(
        f"the store {hide_password(url)} needs a database driver that is not installed ({error}); "
        'run: pip install "sparsity-monitor[service,postgresql]"'
    )


def first_line(error: SQLAlchemyError) -> str:
    """Return what the database itself said, without the statement and its parameters."""
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().split("\n", maxsplit=1)[0]


def _prepare_again(connection: Connection, shown_url: str) -> None:
    if not inspect(connection).has_table(schema_version.name):
        raise MissingStoreError(
            f"the store {shown_url} does not exist any more: its database is there, and its tables are not. Nothing is "
            "acknowledged; bring it back, or restart the service to begin anew"
        )
    _prepare(connection, shown_url)


def _prepare(connection: Connection, shown_url: str) -> None:
    is_file = connection.dialect.name == "sqlite"
    if is_file:
        if not connection.exec_driver_sql("PRAGMA page_count").scalar_one():
            # Of a file that is made now, free pages can be cut off later, see sqlite_file/room.py.
            connection.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")
        # Python's driver begins only before a change of rows, and tables are to be made all or none.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    tables = set(inspect(connection).get_table_names())
    # A database server may hold tables of others beside ours, under other names.
    check_tables(shown_url, tables if is_file else tables & set(metadata.tables), schema_version.name)
    if schema_version.name not in tables:
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
    found = connection.execute(select(schema_version.c.version)).scalar_one()
    if found > SCHEMA_VERSION:
        raise StoreVersionError(
            f"the store {shown_url} has schema version {found}; this program knows versions up to {SCHEMA_VERSION}. "
            "Upgrade sparsity-monitor, or use another store"
        )
    if found < SCHEMA_VERSION:
        kept = (
            back_up(Path(str(connection.engine.url.database)), found) if is_file else "what the database keeps itself"
        )
        logger.info(
            "bringing the store %s from schema version %d to %d; as it was: %s", shown_url, found, SCHEMA_VERSION, kept
        )
        migrate(connection, found)
        found = SCHEMA_VERSION
    # A store that can only be read is none.
    connection.execute(update(schema_version).values(version=found))
    connection.commit()
    if is_file:
        # Kept in the file. Not before it is known to be ours.
        connection.exec_driver_sql(f"PRAGMA journal_mode={journal_mode(Path(str(connection.engine.url.database)))}")


def _engine(url: URL) -> Engine:
    # One connection: one thread uses the store, and what is known of its connection holds for all it does.
    if url.get_backend_name() == "postgresql":
        # Every wait is bounded, so that a database that is gone blocks neither the service nor its shutdown; and the
        # server soon gives back what a service on a dead machine holds.
        arguments = {
            "connect_timeout": _WAIT_SECONDS,
            "tcp_user_timeout": _WAIT_SECONDS * 1000,
            "application_name": f"sparsity-monitor, process {os.getpid()} on {socket.gethostname()}"[:_MAX_NAME],
            "options": f"-c statement_timeout={_WAIT_SECONDS * 1000} "
            "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3",
        }
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_size=1,
            max_overflow=0,
            connect_args=arguments,
        )
        lock_with(engine)
        return engine
    engine = create_engine(
        url.set(drivername="sqlite"), pool_size=1, max_overflow=0, connect_args={"timeout": _WAIT_SECONDS}
    )
    event.listen(engine, "connect", _configure_sqlite)
    return engine


def _second_engine(url: URL, path: Path | None) -> Engine:
    if path is None:
        return create_engine(url.set(drivername="postgresql+psycopg"), connect_args={"connect_timeout": _WAIT_SECONDS})
    engine = create_engine(
        f"sqlite:///file:{quote(str(path.resolve()))}?mode=rw&uri=true", connect_args={"timeout": _WAIT_SECONDS}
    )
    event.listen(engine, "connect", _configure_sqlite)
    return engine


def _reading_engine(url: URL, path: Path | None) -> Engine:
    if path is None:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={"connect_timeout": _WAIT_SECONDS, "options": "-c default_transaction_read_only=on"},
        )
    # Not opened read-only: a reader that may not write leaves a log beside a store that nobody serves.
    engine = create_engine(f"sqlite:///file:{quote(str(path.resolve()))}?mode=rw&uri=true")
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA query_only=ON"))
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # FULL: an acknowledged item is on the disk, not only in the operating system's cache.
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
