"""The tables of the store, and how it is opened: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from monitor.service.errors import StoreError, StoreVersionError
from monitor.service.settings import hide_password

SCHEMA_VERSION = 1
MAX_INTEGER = 2**63 - 1
"""Largest integer that both databases hold; steps and sequence numbers above it are refused."""

_WAIT_SECONDS = 10

metadata = MetaData()

schema_version = Table("sparsity_monitor_schema", metadata, Column("version", Integer, nullable=False))

# Times are by the service's own clock; the sender's are inside the serialized messages.
attempts = Table(
    "attempts",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    Column("resumed_from_step", BigInteger, nullable=False),
    Column("registration", LargeBinary, nullable=False),
    Column("registered_at", Double, nullable=False),
    Column("heard_at", Double, nullable=False),
    Column("observation_heard_at", Double),
    Column("unsent_items", BigInteger, nullable=False),
    Column("dropped_items", BigInteger, nullable=False),
)

items = Table(
    "items",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("time", Double, nullable=False),
    Column("item", LargeBinary, nullable=False),
    ForeignKeyConstraint(["run_id", "attempt"], ["attempts.run_id", "attempts.attempt"]),
    # The first index serves a run's history, the second its latest observation without reading the logs in between.
    Index("items_by_step", "run_id", "step", "attempt", "sequence"),
    Index("items_by_kind", "run_id", "kind", "step", "attempt", "sequence"),
)


def open_engine(url: str) -> Engine:
    """Connect to the store at `url` and make its tables where they are missing.

    Raises:
        StoreError: it cannot be opened.
        StoreVersionError: a newer version of this program wrote it.
    """
    try:
        engine = _engine(make_url(url))
    except (ImportError, NoSuchModuleError) as error:
        raise StoreError(
            f"the store {hide_password(url)} needs a database driver that is not installed ({error}); "
            'run: pip install "sparsity-monitor[service,postgresql]"'
        ) from error
    try:
        with engine.begin() as connection:
            _prepare(connection, hide_password(url))
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(
            f"cannot open the store {hide_password(url)}: {first_line(error)}. Expected a database that this user can "
            "read and write; check that its directory exists and is writable, or that the database server answers"
        ) from error
    except StoreVersionError:
        engine.dispose()
        raise
    return engine


def first_line(error: SQLAlchemyError) -> str:
    """Return what the database itself said, without the statement and its parameters."""
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().split("\n", maxsplit=1)[0]


def _prepare(connection: Connection, shown_url: str) -> None:
    if not inspect(connection).has_table(schema_version.name):
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
    found = connection.execute(select(schema_version.c.version)).scalar_one()
    if found > SCHEMA_VERSION:
        raise StoreVersionError(
            f"the store {shown_url} has schema version {found}; this program knows versions up to {SCHEMA_VERSION}. "
            "Upgrade sparsity-monitor, or use another store"
        )


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        # Every wait is bounded, so that a database that is gone blocks neither the service nor its shutdown.
        arguments = {
            "connect_timeout": _WAIT_SECONDS,
            "tcp_user_timeout": _WAIT_SECONDS * 1000,
            "options": f"-c statement_timeout={_WAIT_SECONDS * 1000}",
        }
        return create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args=arguments)
    engine = create_engine(url.set(drivername="sqlite"), connect_args={"timeout": _WAIT_SECONDS})
    event.listen(engine, "connect", _configure_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # FULL: an acknowledged item is on the disk, not only in the operating system's cache.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
