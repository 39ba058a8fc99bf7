"""The index: what charts show of each item in a few numbers, so that nobody reads 100,000 observations for a curve.

Both tables follow from the items, and are written with them in one transaction.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKeyConstraint, MetaData, Table, Text


def _position() -> list[Column[int]]:
    return [
        Column("step", BigInteger, nullable=False, primary_key=True),
        Column("attempt", BigInteger, nullable=False, primary_key=True),
        Column("sequence", BigInteger, nullable=False, primary_key=True),
    ]


def _attempt() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["run_id", "attempt"], ["attempts.run_id", "attempts.attempt"])


def add_tables(metadata: MetaData) -> tuple[Table, Table]:
    """Add the tables of totals and of named values.

    `totals` has a row for each observation: its counts over all groups, null where they were not measured.
    `curve_values` has one for each number with a name of its own in a run: what the trainer logged, each tolerance and
    reference mask. Both are kept in the order of their keys, so that a curve is one stretch of the file.
    """
    totals = Table(
        "totals",
        metadata,
        Column("run_id", Text, primary_key=True),
        *_position(),
        Column("time", Double, nullable=False),
        Column("stride", BigInteger, nullable=False),
        *(Column(name, BigInteger) for name in COUNT_COLUMNS),
        *(Column(name, Double) for name in MEASURE_COLUMNS),
        _attempt(),
        sqlite_with_rowid=False,
    )
    values = Table(
        "curve_values",
        metadata,
        Column("run_id", Text, primary_key=True),
        Column("name", Text, primary_key=True),
        *_position(),
        Column("time", Double, nullable=False),
        Column("value", Double),
        _attempt(),
        sqlite_with_rowid=False,
    )
    return totals, values


COUNT_COLUMNS = (
    "trained",
    "changed",
    "newly_changed",
    "reverted",
    "step_changed",
    "touched",
    "hidden",
    "non_finite",
    "unmeasured",
    "monitor_bytes",
    "sparse_bytes",
    "dense_bytes",
)
MEASURE_COLUMNS = (
    "update_norm",
    "update_max_abs",
    "relative_norm",
    "changed_ratio",
    "host_seconds",
    "device_seconds",
)
