"""When attempts were last heard of, as the store knows it: what a service that starts takes up from.

Seldom enough that it costs little: a row of an attempt holds its registration, and is written anew as a whole. What is
shown of a run that reports is in memory, see live/runs.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, update

from monitor.limits import MAX_INTEGER
from monitor.service.storage.stored import Batch
from monitor.service.storage.tables.schema import attempts

_SECONDS = 1.0
"""What the store knows may be so much older than what was shown."""


class _Times(NamedTuple):
    heard: float
    observed: float


class Heard:
    """What is written of that."""

    def __init__(self) -> None:
        self._written: dict[tuple[str, int], _Times] = {}

    def due(self, batches: Iterable[Batch], now: float) -> list[Batch]:
        """Return the batches of which it is to be written: all with counts of their sender, of the others some."""
        return [batch for batch in batches if batch.heartbeat is not None or self._is_due(batch, now)]

    def _is_due(self, batch: Batch, now: float) -> bool:
        written = self._written.get(batch.key)
        if written is None:
            return True
        # Also where the clock was set back.
        return abs(now - (written.observed if batch.brings_observation else written.heard)) >= _SECONDS

    def wrote(self, batches: Iterable[Batch], now: float) -> None:
        """Know that it has been written of these."""
        for batch in batches:
            before = self._written.get(batch.key, _Times(now, float("-inf")))
            self._written[batch.key] = _Times(now, now if batch.brings_observation else before.observed)

    def forget(self, run_id: str) -> None:
        """Know nothing of a run that is deleted."""
        self._written = {key: times for key, times in self._written.items() if key[0] != run_id}


class AttemptMissingError(Exception):
    """Something came of an attempt that is not in the store."""


def hear(connection: Connection, batches: Sequence[Batch], now: float) -> None:
    """Write that attempts were heard of.

    Raises:
        AttemptMissingError: one of them is not in the store.
    """
    rows = [_row(batch, now) for batch in batches]
    of_attempt = (attempts.c.run_id == bindparam("of_run"), attempts.c.attempt == bindparam("of_attempt"))
    # Together those of which the same is new.
    for columns in {frozenset(row) for row in rows}:
        alike = [row for row in rows if row.keys() == columns]
        if connection.execute(update(attempts).where(*of_attempt), alike).rowcount < len(alike):
            raise AttemptMissingError


def _row(batch: Batch, now: float) -> dict[str, object]:
    """Return what is new of an attempt that a batch came of, and which it is: `of_run`, `of_attempt`."""
    row: dict[str, object] = {"of_run": batch.run_id, "of_attempt": batch.attempt, "heard_at": now}
    if batch.brings_observation:
        row["observation_heard_at"] = now
    if batch.heartbeat is not None:
        row["unsent_items"] = min(batch.heartbeat.unsent_items, MAX_INTEGER)
        row["dropped_items"] = min(batch.heartbeat.dropped_items, MAX_INTEGER)
    return row
