"""Reads curves thinned: steps are cut into buckets of equal width, and of each stay minimum, maximum and last value.

So no peak is lost, however few points are asked for; the database does it, over the index alone. What a later attempt
superseded is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    Table,
    and_,
    cast,
    exists,
    func,
    literal,
    not_,
    select,
)

from monitor.limits import MAX_INTEGER
from monitor.service.storage.tables.schema import attempts, curve_values, items, totals


@dataclass(frozen=True, slots=True)
class Range:
    """Steps from `first` to `last`, both included, in buckets of `width` steps."""

    first: int
    last: int
    width: int

    @classmethod
    def of(cls, first: int, last: int, points: int) -> Range:
        """Return the range cut into at most so many buckets."""
        width = -(-(last - first + 1) // points)
        # All steps there can be are one more than the databases hold.
        return cls(first, last, min(max(1, width), MAX_INTEGER))


@dataclass(slots=True)
class Curve:
    """One curve: for each bucket that has a value, in the order of steps.

    Attributes:
        step: of the last value in the bucket.
        time: when that was, in seconds since 1970-01-01 UTC.
        minimum, maximum: over the bucket; None where no value is a number.
        last: its last value; None where that is no number.
    """

    step: list[int] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    minimum: list[float | None] = field(default_factory=list)
    maximum: list[float | None] = field(default_factory=list)
    last: list[float | None] = field(default_factory=list)

    def put(self, step: int, time: float, *values: float | None) -> None:
        """Add a bucket, or say better what its last value is."""
        columns = (self.minimum, self.maximum, self.last)
        if self.step and self.step[-1] == step:
            for column in (self.step, self.time, *columns):
                column.pop()
        self.step.append(step)
        self.time.append(time)
        for column, value in zip(columns, values, strict=True):
            column.append(value)


def extent(connection: Connection, run_id: str) -> tuple[int, int] | None:
    """Return the first and the last step that anything is known of, None before that."""
    known = (
        select(items.c.step).where(items.c.run_id == run_id, items.c.kind != "finish", not_superseded(items)).limit(1)
    )
    first = connection.execute(known.order_by(items.c.step)).scalar()
    last = connection.execute(known.order_by(items.c.step.desc())).scalar()
    return None if first is None or last is None else (first, last)


def curves_of_all(
    connection: Connection, run_id: str, names: Sequence[str], steps: Range, weights: int
) -> dict[str, Curve]:
    """Return curves of quantities that every run has, see FIELDS. Those that were never measured are not among them.

    Args:
        weights: of the whole model.
    """
    if not names:
        return {}
    of = {name: _expression(name, weights) for name in names}
    bucket = ((totals.c.step - steps.first) // steps.width).label("bucket")
    ends = [end(of[name]).label(f"{end.__name__}_{name}") for name in names for end in (_min, _max)]
    buckets = (
        select(bucket, func.max(totals.c.step).label("last_step"), *ends)
        .where(*_within(totals, run_id, steps))
        .group_by("bucket")
        .subquery()
    )
    at_the_end = and_(totals.c.run_id == run_id, totals.c.step == buckets.c.last_step, not_superseded(totals))
    query = (
        select(buckets, totals.c.time, *(of[name].label(f"last_{name}") for name in names))
        .select_from(buckets)
        .join(totals, at_the_end)
        .order_by(buckets.c.last_step, totals.c.attempt, totals.c.sequence)
    )
    curves = {name: Curve() for name in names}
    for row in connection.execute(query).mappings():
        for name, curve in curves.items():
            if row[f"_min_{name}"] is not None or row[f"last_{name}"] is not None:
                curve.put(row["last_step"], row["time"], row[f"_min_{name}"], row[f"_max_{name}"], row[f"last_{name}"])
    return {name: curve for name, curve in curves.items() if curve.step}


def curves_named(connection: Connection, run_id: str, names: Sequence[str], steps: Range) -> dict[str, Curve]:
    """Return curves of what is named in the run, see NAMED. Those without values are not among them."""
    curves = {name: _curve_named(connection, run_id, name, steps) for name in names}
    return {name: curve for name, curve in curves.items() if curve.step}


def _curve_named(connection: Connection, run_id: str, name: str, steps: Range) -> Curve:
    table = curve_values
    bucket = ((table.c.step - steps.first) // steps.width).label("bucket")
    buckets = (
        select(
            bucket,
            func.max(table.c.step).label("last_step"),
            _min(table.c.value).label("least"),
            _max(table.c.value).label("most"),
        )
        .where(*_within(table, run_id, steps), table.c.name == name)
        .group_by("bucket")
        .subquery()
    )
    # The name again: a stretch of the table is found by run, name and step.
    at_the_end = (
        table.c.run_id == run_id,
        table.c.name == name,
        table.c.step == buckets.c.last_step,
        not_superseded(table),
    )
    query = (
        select(buckets, table.c.time, table.c.value)
        .select_from(buckets)
        .join(table, and_(*at_the_end))
        .order_by(buckets.c.last_step, table.c.attempt, table.c.sequence)
    )
    curve = Curve()
    for row in connection.execute(query):
        curve.put(row.last_step, row.time, row.least, row.most, row.value)
    return curve


def _expression(name: str, weights: int) -> ColumnElement[float]:
    column = totals.c
    match name:
        case "cumulative_sparsity":
            return _sparsity(column.changed, column.trained)
        case "step_sparsity":
            return _sparsity(column.step_changed, column.trained)
        case "whole_model_cumulative_sparsity":
            return _sparsity(column.changed, literal(weights, BigInteger) - func.coalesce(column.unmeasured, 0))
        case "transient":
            return column.touched - column.changed
        case _:
            return column[name]


def _sparsity(changed: ColumnElement[int], of: ColumnElement[int]) -> ColumnElement[float]:
    share: ColumnElement[float] = cast(changed, Double).op("/")(func.nullif(cast(of, Double), 0.0))
    return literal(1.0, Double) - share


def _min(values: ColumnElement[float]) -> ColumnElement[float]:
    return func.min(values)


def _max(values: ColumnElement[float]) -> ColumnElement[float]:
    return func.max(values)


def _within(table: Table, run_id: str, steps: Range) -> list[ColumnElement[bool]]:
    return [table.c.run_id == run_id, table.c.step.between(steps.first, steps.last), not_superseded(table)]


def not_superseded(table: Table) -> ColumnElement[bool]:
    """Return the condition that no later attempt superseded a row."""
    later = attempts.alias("later")
    return not_(
        exists().where(
            later.c.run_id == table.c.run_id,
            later.c.attempt > table.c.attempt,
            later.c.resumed_from_step < table.c.step,
        )
    )
