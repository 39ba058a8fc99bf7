"""The tables of the store."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from monitor.service.storage.tables.index import add_tables

SCHEMA_VERSION = 3


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

totals, curve_values = add_tables(metadata)

# What stayed of the observations of a run when others were taken out, see Thinned in storage/stored.py.
thinned_runs = Table(
    "thinned_runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("every", BigInteger, nullable=False),
    Column("until_step", BigInteger, nullable=False),
    Column("removed", BigInteger, nullable=False),
)

# What was taken out of the store on purpose. Senders may still have some of it, see storage/queries/deletion.py.
deleted_attempts = Table(
    "deleted_attempts",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    # Of its registration: another training may have the same name and number.
    Column("digest", LargeBinary, nullable=False),
    # Highest number of an item that was stored.
    Column("last_sequence", BigInteger, nullable=False),
    # How it ended, null where it did not.
    Column("finish", LargeBinary),
    Column("deleted_at", Double, nullable=False),
    # 1 while some of the run's rows are still there.
    Column("under_way", Integer, nullable=False),
)
