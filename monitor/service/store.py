"""The store: every item that was acknowledged, in SQLite or PostgreSQL. One thread uses it, see recorder.py.

What a later attempt superseded is worked out when it is read, never stored: attempts may arrive in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast

from sqlalchemy import ColumnElement, Connection, Row, Select, exists, func, insert, not_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.exc import SQLAlchemyError

from monitor.service.errors import StoreError, TooManyRunsError
from monitor.service.registration import check_agreement, how_to_raise
from monitor.service.schema import MAX_INTEGER, attempts, first_line, items, open_engine
from monitor.service.settings import hide_password
from monitor.wire.monitor_pb2 import Finish, Heartbeat, Item, Observation, Registration, TrainingLog

_LOGS_FOR_LATEST_METRICS = 200


class Position(NamedTuple):
    """Where an item stands in the history of its run."""

    step: int
    attempt: int
    sequence: int


START = Position(-1, 0, 0)


def after_step(step: int) -> Position:
    """Return the position behind the last item of `step`."""
    return Position(min(step, MAX_INTEGER), MAX_INTEGER, MAX_INTEGER)


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item with the attempt it belongs to."""

    position: Position
    item: Item


@dataclass(frozen=True, slots=True)
class StoredRun:
    """What the store knows of a run, without its history.

    Attributes:
        registrations: by attempt. Of the latest attempt are the times, by the service's clock, the counts and `finish`.
        observation: the one with the greatest step that no later attempt superseded; `logs` likewise, latest last.
        observations: number of those that are not superseded.
    """

    registrations: dict[int, Registration]
    registered_at: float
    heard_at: float
    observation_heard_at: float | None
    unsent_items: int
    dropped_items: int
    observation: StoredItem | None
    logs: list[StoredItem]
    finish: Finish | None
    observations: int


class Store:
    """Items, attempts and heartbeats.

    Raises, from every method:
        StoreError: the database did not do what it was asked; nothing of the call is stored.
    """

    def __init__(self, url: str) -> None:
        self._shown_url = hide_password(url)
        self._engine = open_engine(url)
        self._insert = insert_postgresql if self._engine.dialect.name == "postgresql" else insert_sqlite

    def close(self) -> None:
        self._engine.dispose()

    def ping(self) -> None:
        """Ask the database for a sign of life."""
        with self._transaction() as connection:
            connection.execute(select(1))

    def register(self, registration: Registration, now: float, max_runs: int) -> int:
        """Store an attempt, and return its highest stored sequence number, 0 if none.

        Raises:
            ContradictingRegistrationError, IncomparableAttemptError: see `check_agreement`.
            TooManyRunsError: it is a new run, and there are `max_runs`.
        """
        run_id, attempt = registration.run_id, registration.attempt
        with self._transaction() as connection:
            stored = self._registrations(connection, run_id)
            check_agreement(registration, stored)
            if not stored:
                self._check_room(connection, max_runs)
            if attempt not in [other.attempt for other in stored]:
                row = _attempt_row(registration, now)
                connection.execute(insert(attempts), row)
            last = select(func.max(items.c.sequence)).where(items.c.run_id == run_id, items.c.attempt == attempt)
            return connection.execute(last).scalar() or 0

    def add(
        self, run_id: str, attempt: int, batch: Sequence[Item], heartbeat: Heartbeat | None, now: float
    ) -> set[int]:
        """Store the items that are new, together, and return their sequence numbers.

        Numbers that are stored already keep what they have. The attempt counts as heard of at `now`.
        """
        rows = [_item_row(run_id, attempt, item) for item in batch]
        heard: dict[str, object] = {"heard_at": now}
        if any(item.HasField("observation") for item in batch):
            heard["observation_heard_at"] = now
        if heartbeat is not None:
            heard["unsent_items"] = min(heartbeat.unsent_items, MAX_INTEGER)
            heard["dropped_items"] = min(heartbeat.dropped_items, MAX_INTEGER)
        of_attempt = (attempts.c.run_id == run_id, attempts.c.attempt == attempt)
        with self._transaction() as connection:
            connection.execute(update(attempts).where(*of_attempt).values(heard))
            if not rows:
                return set()
            statement = self._insert(items).on_conflict_do_nothing().returning(items.c.sequence)
            return set(connection.execute(statement, rows).scalars())

    def run_ids(self) -> list[str]:
        """Return the ids of all runs."""
        with self._transaction() as connection:
            return list(connection.execute(select(attempts.c.run_id).distinct()).scalars())

    def run(self, run_id: str) -> StoredRun:
        """Return what is known of a run that is registered."""
        with self._transaction() as connection:
            rows = connection.execute(
                select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.attempt)
            ).all()
            observations = _latest(connection, run_id, "observation", 1)
            return _stored_run(
                rows,
                observation=observations[0] if observations else None,
                logs=_latest(connection, run_id, "training_log", _LOGS_FOR_LATEST_METRICS)[::-1],
                finish=_finish(connection, run_id, rows[-1].attempt),
                observations=_count_observations(connection, run_id),
            )

    def history(self, run_id: str, after: Position, limit: int, kind: str | None = None) -> list[StoredItem]:
        """Return at most `limit` items behind `after` in the order of their steps, without superseded ones."""
        wanted = _history_of(run_id).where(tuple_(items.c.step, items.c.attempt, items.c.sequence) > after)
        if kind is not None:
            wanted = wanted.where(items.c.kind == kind)
        ordered = wanted.order_by(items.c.step, items.c.attempt, items.c.sequence).limit(limit)
        with self._transaction() as connection:
            return [_stored_item(row) for row in connection.execute(ordered)]

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(
                f"the store {self._shown_url} failed: {first_line(error)}. Nothing of this was stored; "
                "make room on its disk or bring the database back, senders try again by themselves"
            ) from error

    def _registrations(self, connection: Connection, run_id: str) -> list[Registration]:
        rows = connection.execute(
            select(attempts.c.registration).where(attempts.c.run_id == run_id).order_by(attempts.c.attempt)
        )
        return [Registration.FromString(row.registration) for row in rows]

    def _check_room(self, connection: Connection, max_runs: int) -> None:
        runs = connection.execute(select(func.count(attempts.c.run_id.distinct()))).scalar_one()
        if runs >= max_runs:
            raise TooManyRunsError(
                f"{runs} runs are stored, and this service allows {max_runs}. {how_to_raise('max_runs')}", "max_runs"
            )


def _attempt_row(registration: Registration, now: float) -> dict[str, object]:
    return {
        "run_id": registration.run_id,
        "attempt": registration.attempt,
        "resumed_from_step": registration.resumed_from_step,
        "registration": registration.SerializeToString(),
        "registered_at": now,
        "heard_at": now,
        "unsent_items": 0,
        "dropped_items": 0,
    }


def _item_row(run_id: str, attempt: int, item: Item) -> dict[str, object]:
    kind = cast(str, item.WhichOneof("kind"))
    content: Observation | TrainingLog | Finish = getattr(item, kind)
    return {
        "run_id": run_id,
        "attempt": attempt,
        "sequence": item.sequence,
        "kind": kind,
        "step": content.step,
        "time": occurred_at(item),
        "item": item.SerializeToString(),
    }


def occurred_at(item: Item) -> float:
    """Return when the item happened, by the sender's clock, in seconds since 1970-01-01 UTC."""
    match item.WhichOneof("kind"):
        case "observation":
            return item.observation.observed_at
        case "training_log":
            return item.training_log.logged_at
        case _:
            return item.finish.finished_at


def _superseded() -> ColumnElement[bool]:
    later = attempts.alias("later")
    return exists().where(
        later.c.run_id == items.c.run_id,
        later.c.attempt > items.c.attempt,
        later.c.resumed_from_step < items.c.step,
    )


def _history_of(run_id: str) -> Select[tuple[int, int, int, bytes]]:
    columns = (items.c.step, items.c.attempt, items.c.sequence, items.c.item)
    return select(*columns).where(items.c.run_id == run_id, not_(_superseded()))


def _stored_item(row: Row[tuple[int, int, int, bytes]]) -> StoredItem:
    return StoredItem(Position(row.step, row.attempt, row.sequence), Item.FromString(row.item))


def _latest(connection: Connection, run_id: str, kind: str, limit: int) -> list[StoredItem]:
    newest_first = (items.c.step.desc(), items.c.attempt.desc(), items.c.sequence.desc())
    query = _history_of(run_id).where(items.c.kind == kind).order_by(*newest_first).limit(limit)
    return [_stored_item(row) for row in connection.execute(query)]


def _count_observations(connection: Connection, run_id: str) -> int:
    query = select(func.count()).where(items.c.run_id == run_id, items.c.kind == "observation", not_(_superseded()))
    return connection.execute(query).scalar_one()


def _finish(connection: Connection, run_id: str, attempt: int) -> Finish | None:
    of_attempt = (items.c.run_id == run_id, items.c.kind == "finish", items.c.attempt == attempt)
    row = connection.execute(
        select(items.c.item).where(*of_attempt).order_by(items.c.sequence.desc()).limit(1)
    ).scalar()
    return None if row is None else Item.FromString(row).finish


def _stored_run(
    rows: Sequence[Row[tuple[object, ...]]],
    *,
    observation: StoredItem | None,
    logs: list[StoredItem],
    finish: Finish | None,
    observations: int,
) -> StoredRun:
    latest = rows[-1]
    return StoredRun(
        registrations={row.attempt: Registration.FromString(row.registration) for row in rows},
        registered_at=latest.registered_at,
        heard_at=latest.heard_at,
        observation_heard_at=latest.observation_heard_at,
        unsent_items=latest.unsent_items,
        dropped_items=latest.dropped_items,
        observation=observation,
        logs=logs,
        finish=finish,
        observations=observations,
    )
