"""What the index has of an item."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection, insert

from monitor.limits import MAX_INTEGER
from monitor.service.counts import Summation, Totals, sparsity
from monitor.service.curves.fields import AT_TOLERANCE, LOGGED, OVERLAP_LIFT, OVERLAP_O1, OVERLAP_O2
from monitor.service.curves.tables import COUNT_COLUMNS
from monitor.service.received import Received
from monitor.service.schema import curve_values, totals
from monitor.wire.monitor_pb2 import Observation, Registration

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
                connection.execute(insert(table), rows)


def rows_of(run_id: str, attempt: int, items: Iterable[Received], summation: Summation) -> Rows:
    """Return what the index has of items of one attempt, each number once."""
    rows = Rows()
    room = _MAX_KEY_BYTES - len(run_id.encode())
    for received in items:
        item = received.item
        key: Row = {"run_id": run_id, "attempt": attempt, "sequence": item.sequence}
        if item.HasField("observation"):
            observation = item.observation
            key |= {"step": observation.step, "time": observation.observed_at}
            added = summation.totals(observation, received.arrays)
            rows.totals.append(key | _totals(observation, added))
            named = _of_observation(added, summation.registration)
        elif item.HasField("training_log"):
            key |= {"step": item.training_log.step, "time": item.training_log.logged_at}
            named = ((LOGGED + name, value) for name, value in item.training_log.metrics.items())
        else:
            continue
        rows.values.extend(
            key | {"name": name, "value": _storable(value)} for name, value in named if _is_storable(name, room)
        )
    return rows


def names_of_observations(registration: Registration) -> list[str]:
    """Return the names under which observations of an attempt have values in the index."""
    room = _MAX_KEY_BYTES - len(registration.run_id.encode())
    names = [f"{AT_TOLERANCE}{tolerance!r}" for tolerance in registration.tolerances]
    overlaps = (OVERLAP_O1, OVERLAP_O2, OVERLAP_LIFT)
    names += [kind + reference.name for reference in registration.references for kind in overlaps]
    return [name for name in names if _is_storable(name, room)]


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
