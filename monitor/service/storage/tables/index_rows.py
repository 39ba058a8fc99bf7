"""What the index has of an item."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter

from sqlalchemy import Connection, Dialect, Table, insert
from sqlalchemy.sql.compiler import SQLCompiler

from monitor.limits import MAX_INTEGER
from monitor.service.quantities.arrays import Arrays
from monitor.service.quantities.counts import Summation, Totals, sparsity
from monitor.service.quantities.fields import AT_TOLERANCE, LOGGED, OVERLAP_LIFT, OVERLAP_O1, OVERLAP_O2
from monitor.service.storage.tables.index import COUNT_COLUMNS
from monitor.service.storage.tables.schema import curve_values, totals
from monitor.wire.monitor_pb2 import Item, Observation, Registration

Row = dict[str, object]

# PostgreSQL takes no longer keys, less what it needs itself and the numbers in ours; and no NUL in a text.
_MAX_KEY_BYTES = 2600


@dataclass
class Rows:
    """Rows that are to be written together."""

    totals: list[Row] = field(default_factory=list)
    values: list[Row] = field(default_factory=list)

    def __iadd__(self, other: Rows) -> Rows:
        self.totals += other.totals
        self.values += other.values
        return self

    def write(self, connection: Connection) -> None:
        """Write them. There must be none of the same items."""
        for table, rows in ((totals, self.totals), (curve_values, self.values)):
            if rows:
                _insert(connection, table, rows)


def _insert(connection: Connection, table: Table, rows: list[Row]) -> None:
    # As the driver takes them: to look at each value first would take as long again, and these need nothing.
    compiled = _compiled(table, connection.dialect)
    if compiled.positiontup is None:
        connection.exec_driver_sql(str(compiled), rows)
    else:
        values = itemgetter(*compiled.positiontup)
        connection.exec_driver_sql(str(compiled), [values(row) for row in rows])


@lru_cache
def _compiled(table: Table, dialect: Dialect) -> SQLCompiler:
    compiled = insert(table).compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    return compiled


class Index:
    """Makes what the index has of the items of one attempt, of each number once."""

    def __init__(self, registration: Registration) -> None:
        self._summation = Summation(registration)
        self._attempt: Row = {"run_id": registration.run_id, "attempt": registration.attempt}
        self._room = _room(registration)

    def of(self, item: Item) -> Rows:
        """Return the rows of an item."""
        match item.WhichOneof("kind"):
            case "observation":
                (rows,) = self.of_observations([item.sequence], Arrays.of(item.observation))
                return rows
            case "training_log":
                log = item.training_log
                key = self._key(item.sequence, log.step, log.logged_at)
                return self._rows(key, [], ((LOGGED + name, value) for name, value in log.metrics.items()))
            case _:
                return Rows()

    def of_observations(self, sequences: Iterable[int], arrays: Arrays) -> list[Rows]:
        """Return the rows of each of some observations, which have these numbers."""
        rows = []
        for sequence, observation, added in zip(
            sequences, arrays.observations, self._summation.totals_of(arrays), strict=True
        ):
            key = self._key(sequence, observation.step, observation.observed_at)
            named = _of_observation(added, self._summation.registration)
            rows.append(self._rows(key, [key | _totals(observation, added)], named))
        return rows

    def _key(self, sequence: int, step: int, time: float) -> Row:
        return {**self._attempt, "sequence": sequence, "step": step, "time": time}

    def _rows(self, key: Row, totals: list[Row], named: Iterable[tuple[str, float | None]]) -> Rows:
        values = [
            {**key, "name": name, "value": _storable(value)} for name, value in named if _is_storable(name, self._room)
        ]
        return Rows(totals, values)


def names_of_observations(registration: Registration) -> list[str]:
    """Return the names under which observations of an attempt have values in the index."""
    room = _room(registration)
    names = [f"{AT_TOLERANCE}{tolerance!r}" for tolerance in registration.tolerances]
    overlaps = (OVERLAP_O1, OVERLAP_O2, OVERLAP_LIFT)
    names += [kind + reference.name for reference in registration.references for kind in overlaps]
    return [name for name in names if _is_storable(name, room)]


def _room(registration: Registration) -> int:
    """Return how many bytes a name may have."""
    return _MAX_KEY_BYTES - len(registration.run_id.encode())


def _is_storable(name: str, room: int) -> bool:
    # The item itself is kept, and must not be refused for ever because of its curve.
    return "\0" not in name and len(name.encode()) <= room


def _totals(observation: Observation, added: Totals) -> Row:
    counts = {name: added.counts.get(name) for name in COUNT_COLUMNS}
    return {
        **counts,
        "trained": added.trained_weights,
        "monitor_bytes": _countable(observation.monitor_bytes),
        "stride": observation.stride,
        "update_norm": _storable(added.update_norm),
        "update_max_abs": _storable(added.update_max_abs),
        "relative_norm": _storable(added.relative_norm),
        "changed_ratio": _storable(added.changed_ratio),
        "sparse_bytes": _countable(added.transfer.sparse_bytes) if added.transfer else None,
        "dense_bytes": _countable(added.transfer.dense_bytes) if added.transfer else None,
        "host_seconds": _storable(observation.host_seconds),
        "device_seconds": _storable(observation.device_seconds),
    }


def _of_observation(added: Totals, registration: Registration) -> Iterator[tuple[str, float | None]]:
    for tolerance, changed in zip(registration.tolerances, added.changed_at, strict=True):
        yield f"{AT_TOLERANCE}{tolerance!r}", sparsity(changed, added.trained_weights)
    changed = added.counts.get("changed")
    for reference, overlap in zip(registration.references, added.references, strict=True):
        if overlap.intersection is None:
            continue
        yield OVERLAP_O1 + reference.name, _share(overlap.intersection, changed)
        yield OVERLAP_O2 + reference.name, _share(overlap.intersection, overlap.weights)
        yield OVERLAP_LIFT + reference.name, _share(overlap.intersection, overlap.expected_intersection)


def _share(part: float, whole: float | None) -> float | None:
    return part / whole if whole else None


def _countable(number: int | None) -> int | None:
    # A message may hold, or add up to, more than the database does.
    return None if number is None or number > MAX_INTEGER else number


def _storable(value: float | None) -> float | None:
    # SQLite keeps NaN as null, and PostgreSQL takes it for the greatest number.
    return None if value is None or math.isnan(value) else value
