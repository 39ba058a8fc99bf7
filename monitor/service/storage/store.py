"""The store in one place, by whatever keeps it. One thread uses it, see recording/recorder.py."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from sqlalchemy import Connection, delete, exists, func, insert, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from monitor.service.access import table as tokens_table
from monitor.service.access.tokens import Token
from monitor.service.errors import StoreError, TooManyRunsError, how_to_raise
from monitor.service.quantities.fields import FIELDS
from monitor.service.settings import hide_password
from monitor.service.storage.agreement import check_agreement
from monitor.service.storage.opening import cannot_open, file_of, first_line, open_engine
from monitor.service.storage.queries import curves, deletion, history, sizes, thinning
from monitor.service.storage.queries.curves import Curve, Range
from monitor.service.storage.queries.deletion import Removed, Returned
from monitor.service.storage.queries.groups import items_at, last_observations
from monitor.service.storage.queries.heard import AttemptMissingError, Heard, hear
from monitor.service.storage.queries.thinning import Progress, Thinning
from monitor.service.storage.remedies import remedy
from monitor.service.storage.sqlite_file import room
from monitor.service.storage.sqlite_file.held import Held, HeldByServer, HeldFile
from monitor.service.storage.sqlite_file.place import Key
from monitor.service.storage.stored import Batch, Position, StoredItem, StoredRun
from monitor.service.storage.tables.index_rows import Rows
from monitor.service.storage.tables.rows import attempt_row, item_row
from monitor.service.storage.tables.schema import (
    attempts,
    curve_values,
    deleted_attempts,
    items,
    schema_version,
    thinned_runs,
    totals,
)
from monitor.service.times import when
from monitor.wire.monitor_pb2 import Registration

logger = logging.getLogger(__name__)

_LOGS_FOR_LATEST_METRICS = 200
_OBSERVATIONS_FOR_PAUSES = 10_000


class Store:
    """Items, attempts and heartbeats.

    Raises, from every method:
        StoreError: the database failed; nothing of the call is stored.
    """

    def __init__(self, url: str, *, again: bool = False) -> None:
        """Open the store.

        Args:
            again: one that was there, and is not to be made anew.

        Raises:
            StoreError: it cannot be opened, another service has it, or it belongs to another program.
        """
        self._url, self._shown_url = url, hide_password(url)
        self._held = _held(url)
        self._newest: Key | None = None
        self._heard = Heard()
        try:
            self._engine = open_engine(url, again=again)
        except StoreError:
            self._held.close()
            raise
        self._insert = insert_postgresql if self._engine.dialect.name == "postgresql" else insert_sqlite
        try:
            self._held.opened(self._engine, self._touch)
            with self._transaction() as connection:
                self._newest = self._newest_item(connection)
                self._deleted = deletion.known(connection)
        except StoreError:
            self._engine.dispose()
            self._held.close()
            raise

    def close(self) -> None:
        """Close the store, under its name."""
        for step in (partial(self._held.hold, self._newest), self._held.save):
            try:
                step()
            except StoreError as error:
                logger.error("at the end: %s", error)  # noqa: TRY400 - its words are for people
        self._engine.dispose()
        self._held.close()

    def is_held(self) -> bool:
        """Return whether the store is this one's still. One that is not can only be closed and opened anew.

        A file stays; what becomes of it is told when it is written. Of a database server, the connection counts.
        """
        if self._engine.dialect.name == "sqlite":
            return True
        try:
            # The server is asked whether it is there before a connection is used again.
            with self._engine.connect():
                return True
        except (SQLAlchemyError, StoreError):
            return False

    def announce(self, grpc_address: str, http_address: str) -> None:
        """Let others who want the store know where it is served."""
        self._held.announce(grpc_address, http_address)

    def ping(self) -> None:
        """Find out whether the store takes anything."""
        self._held.hold(self._newest)
        self._touch()
        self._held.confirm()

    def tokens(self) -> list[Token]:
        """Return the tokens that are kept in the store, see access/. Nothing is written, not even where it is."""
        try:
            with self._engine.connect() as connection:
                return tokens_table.read(connection)
        except SQLAlchemyError as error:
            raise StoreError(f"the store {self._shown_url} cannot be read: {first_line(error)}") from error

    def register(self, registration: Registration, now: float, max_runs: int) -> int:
        """Store an attempt, and return its highest stored sequence number, 0 if none.

        Raises:
            ContradictingRegistrationError, IncomparableAttemptError: see `check_agreement`.
            TooManyRunsError: it is a new run, and there are `max_runs`.
            StoreError: the run is being deleted, see `delete_more`.
        """
        run_id, attempt = registration.run_id, registration.attempt
        if self.is_going(run_id):
            raise _was_deleted(run_id)
        with self._change() as connection:
            stored = self._registrations(connection, run_id)
            check_agreement(registration, stored)
            if not stored:
                self._check_room(connection, max_runs)
                self._forget_curves(connection, run_id)
            deleted = deletion.returned(connection, registration)
            if is_new := attempt not in [other.attempt for other in stored]:
                self._add_attempt(connection, registration, deleted, now)
            last = select(func.max(items.c.sequence)).where(items.c.run_id == run_id, items.c.attempt == attempt)
            known = connection.execute(last).scalar() or 0
        if deleted is None:
            self._deleted.last.pop((run_id, attempt), None)
            return known
        if is_new:
            logger.warning(
                "attempt %d of run %s was deleted from the store at %s and reports again: its items up to number %d "
                "are acknowledged and stay deleted, what came after them is kept",
                attempt,
                run_id,
                when(deleted.deleted_at),
                deleted.last_sequence,
            )
        return max(known, deleted.last_sequence)

    def delete(self, run_id: str, now: float) -> None:
        """Take a run out of the store. It counts as gone from now on; `delete_more` makes it so."""
        # First of all: what is stored of it from now on would go with the rest.
        self._deleted.under_way.add(run_id)
        self._heard.forget(run_id)
        with self._clearing() as connection:
            deletion.begin(connection, run_id, now)

    def is_going(self, run_id: str) -> bool:
        """Return whether some rows of a run that was deleted may still be there: `delete_more` takes them away."""
        return run_id in self._deleted.under_way

    def delete_more(self, run_id: str) -> Removed:
        """Take away some rows of a run that was deleted; none means that all are gone."""
        with self._clearing() as connection:
            removed = deletion.go_on(connection, run_id)
            known = deletion.known(connection) if not removed.rows else self._deleted
        self._deleted = known
        return removed

    def deletions(self) -> list[str]:
        """Return the ids of runs that were deleted and of which there still are rows."""
        with self._transaction() as connection:
            self._deleted = deletion.known(connection)
        return sorted(self._deleted.under_way)

    def thinning(self, run_id: str, observations: int, keep: int) -> Thinning:
        """Decide which observations of a run stay, see `thinning.plan`."""
        with self._transaction() as connection:
            return thinning.plan(connection, run_id, observations, keep)

    def thin_more(self, plan: Thinning, progress: Progress) -> Progress:
        """Take away some observations of a run that do not stay, and what the index has of them."""
        with self._clearing() as connection:
            return thinning.go_on(connection, plan, progress)

    def used_bytes(self) -> int | None:
        """Return how much of a SQLite file holds something; None of a database server, which does not say."""
        if self._engine.dialect.name != "sqlite":
            return None
        with self._transaction() as connection:
            return sizes.pages(connection)[0]

    def give_back(self) -> bool:
        """Cut some of what is free off the end of a SQLite file; return whether anything was, and there may be more."""
        if self._engine.dialect.name != "sqlite":
            return False
        self._held.hold(self._newest)
        with self._transaction() as connection:
            given = room.give_back(connection)
        self._held.confirm(given.bytes if given.pages else None)
        return bool(given.pages)

    def compact(self) -> None:
        """Write a SQLite file anew without what is free in it. It takes long: not while it is served."""
        path = file_of(self._url)
        if path is not None:
            self._held.hold(self._newest)
            room.compact(self._engine, path)
            self._held.confirm(path.stat().st_size)

    def bytes_of(self, run_id: str) -> int:
        """Return about how much a run takes in a database server."""
        with self._transaction() as connection:
            return sizes.of_run(connection, run_id)

    def add(self, batches: Sequence[Batch], now: float) -> list[set[int]]:
        """Store the items that are new, of all batches together, and return their sequence numbers, batch by batch.

        Numbers that are stored already keep what they have. The attempts count as heard of at `now`, or not long
        before.
        """
        for batch in batches:
            if self.is_going(batch.run_id):
                raise _was_deleted(batch.run_id)
        to_hear = self._heard.due(batches, now)
        try:
            new = self._add(batches, to_hear, now)
        except AttemptMissingError:
            raise self._missing(batches) from None
        self._heard.wrote(to_hear, now)
        for batch, numbers in zip(batches, new, strict=True):
            if numbers:
                self._newest = (batch.run_id, batch.attempt, max(numbers))
        return new

    def _add(self, batches: Sequence[Batch], to_hear: Sequence[Batch], now: float) -> list[set[int]]:
        with self._change() as connection:
            hear(connection, to_hear, now)
            new = self._add_items(connection, batches)
            index = Rows()
            for batch, numbers in zip(batches, new, strict=True):
                for storable in batch.first_of(numbers):
                    index += storable.indexed
            index.write(connection)
        return new

    def _missing(self, batches: Sequence[Batch]) -> StoreError:
        """Return what is to be said of attempts of which one is not in the store."""
        of_runs = attempts.c.run_id.in_({batch.run_id for batch in batches})
        with self._transaction() as connection:
            rows = connection.execute(select(attempts.c.run_id, attempts.c.attempt).where(of_runs)).all()
        there = {tuple(row) for row in rows}
        missing = [batch.key for batch in batches if batch.key not in there]
        if not missing:
            return StoreError(
                f"the store {self._shown_url} is changed by another program. Nothing of this was stored; senders try "
                "again by themselves"
            )
        run_id, attempt = missing[0]
        if (run_id, attempt) in self._deleted.last:
            return _was_deleted(run_id)
        return StoreError(
            f"attempt {attempt} of run {run_id} was taken out of the store {self._shown_url} by another program. "
            "Nothing of this was stored: restart the service, and the run registers again"
        )

    def _add_items(self, connection: Connection, batches: Sequence[Batch]) -> list[set[int]]:
        rows = [
            item_row(*batch.key, storable.item, storable.content)
            for batch in batches
            for storable in batch.items
            if storable.item.sequence > self._deleted.last.get(batch.key, 0)
        ]
        if not rows:
            return [set() for _ in batches]
        key = (items.c.run_id, items.c.attempt, items.c.sequence)
        statement = self._insert(items).on_conflict_do_nothing().returning(*key)
        try:
            stored = {tuple(row) for row in connection.execute(statement, rows)}
        except IntegrityError as error:
            # All that they refer to.
            raise AttemptMissingError from error
        new = []
        for batch in batches:
            keys = stored & {(*batch.key, storable.item.sequence) for storable in batch.items}
            # Where two batches bring the same, it is of the first.
            stored -= keys
            new.append({sequence for _run_id, _attempt, sequence in keys})
        return new

    def run_ids(self) -> list[str]:
        """Return the ids of all runs."""
        with self._transaction() as connection:
            found = connection.execute(select(attempts.c.run_id).distinct()).scalars()
            return [run_id for run_id in found if run_id not in self._deleted.under_way]

    def run(self, run_id: str) -> StoredRun:
        """Return what is known of a run that is registered."""
        with self._transaction() as connection:
            rows = connection.execute(
                select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.attempt)
            ).all()
            latest, last = rows[-1], history.latest(connection, run_id, "observation", 1)
            finish = history.finish_of(connection, run_id, latest.attempt)
            return StoredRun(
                registrations={row.attempt: Registration.FromString(row.registration) for row in rows},
                registered_at=latest.registered_at,
                heard_at=latest.heard_at,
                observation_heard_at=latest.observation_heard_at,
                unsent_items=latest.unsent_items,
                dropped_items=latest.dropped_items,
                observation=last[0] if last else None,
                logs=history.latest(connection, run_id, "training_log", _LOGS_FOR_LATEST_METRICS)[::-1],
                finish=finish,
                observations=history.count_observations(connection, run_id),
                observed_at=[]
                if finish
                else history.observed_at(connection, run_id, latest.attempt, _OBSERVATIONS_FOR_PAUSES),
                thinned=thinning.of_run(connection, run_id),
                deleted_at=deletion.deleted_at(connection, run_id, latest.attempt),
            )

    def history(self, run_id: str, after: Position, limit: int, kind: str | None = None) -> list[StoredItem]:
        """Return at most `limit` items behind `after` in the order of their steps, without superseded ones."""
        with self._transaction() as connection:
            return history.page(connection, run_id, after, limit, kind)

    def extent(self, run_id: str) -> tuple[int, int] | None:
        """Return the first and the last step that a run has curves of, None before that."""
        with self._transaction() as connection:
            return curves.extent(connection, run_id)

    def curves(self, run_id: str, names: Sequence[str], steps: Range, weights: int) -> dict[str, Curve]:
        """Return the curves of a run that has them, thinned, by name: see FIELDS and NAMED in quantities/fields.py."""
        of_all = [name for name in names if name in FIELDS]
        named = [name for name in names if name not in FIELDS]
        with self._transaction() as connection:
            found = curves.curves_of_all(connection, run_id, of_all, steps, weights)
            return found | curves.curves_named(connection, run_id, named, steps)

    def last_observations(self, run_id: str, steps: Range) -> list[Position]:
        """Return where the last observation of each bucket of steps is."""
        with self._transaction() as connection:
            return last_observations(connection, run_id, steps)

    def items_at(self, run_id: str, positions: Sequence[Position]) -> list[StoredItem]:
        """Return items by their positions, of which there may be a few hundred."""
        with self._transaction() as connection:
            return items_at(connection, run_id, positions)

    def _add_attempt(
        self, connection: Connection, registration: Registration, deleted: Returned | None, now: float
    ) -> None:
        connection.execute(insert(attempts), attempt_row(registration, now))
        if deleted is not None and deleted.finish is not None:
            # Otherwise a run that only asks what is still wanted of it would count as lost.
            content = deleted.finish.SerializeToString()
            row = item_row(registration.run_id, registration.attempt, deleted.finish, content)
            connection.execute(insert(items), row)

    def _touch(self) -> None:
        """Write something that changes nothing, and ask for every table."""
        with self._transaction() as connection:
            # There and back: SQLite writes nothing where nothing differs.
            for _ in range(2):
                connection.execute(update(schema_version).values(version=-schema_version.c.version))
            for table in (attempts, items, totals, curve_values, deleted_attempts, thinned_runs):
                connection.execute(select(table.c.run_id).limit(1))

    def _newest_item(self, connection: Connection) -> Key | None:
        if self._engine.dialect.name != "sqlite":
            return None
        key = (items.c.run_id, items.c.attempt, items.c.sequence)
        row = connection.execute(select(*key).order_by(literal_column("rowid").desc()).limit(1)).first()
        return tuple(row) if row else None

    @contextmanager
    def _clearing(self) -> Iterator[Connection]:
        """A transaction that takes items away, perhaps the newest, by which the file is known."""
        self._held.hold(self._newest)
        self._newest = None
        with self._transaction() as connection:
            yield connection
            newest = self._newest_item(connection)
        self._newest = newest
        self._held.confirm()

    @contextmanager
    def _change(self) -> Iterator[Connection]:
        """A transaction that counts when it is done: what it wrote is where the next process will look for it."""
        self._held.hold(self._newest)
        with self._transaction() as connection:
            yield connection
        self._held.confirm()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            reason = first_line(error)
            what = remedy(reason, "make room on its disk or bring the database back")
            raise StoreError(
                f"the store {self._shown_url} failed: {reason}. Nothing of this was stored; {what}. Senders try again "
                "by themselves"
            ) from error

    def _registrations(self, connection: Connection, run_id: str) -> list[Registration]:
        rows = connection.execute(
            select(attempts.c.registration).where(attempts.c.run_id == run_id).order_by(attempts.c.attempt)
        )
        return [Registration.FromString(row.registration) for row in rows]

    def _forget_curves(self, connection: Connection, run_id: str) -> None:
        """Leave nothing that was said of the items of a run that another program took out of the store."""
        for table in (totals, curve_values, thinned_runs):
            gone = ~exists().where(items.c.run_id == run_id)
            connection.execute(delete(table).where(table.c.run_id == run_id, gone))

    def _check_room(self, connection: Connection, max_runs: int) -> None:
        there = attempts.c.run_id.not_in(self._deleted.under_way)
        runs = connection.execute(select(func.count(attempts.c.run_id.distinct())).where(there)).scalar_one()
        if runs >= max_runs:
            raise TooManyRunsError(
                f"{runs} runs are stored, and this service allows {max_runs}. {how_to_raise('max_runs')}", "max_runs"
            )


def _held(url: str) -> Held:
    path = file_of(url)
    if path is None:
        return HeldByServer()
    try:
        return HeldFile(path, schema_version.name)
    except OSError as error:
        raise cannot_open(url, error.strerror or str(error)) from error


def _was_deleted(run_id: str) -> StoreError:
    return StoreError(
        f"run {run_id} was deleted from the store. Nothing of this was stored: its sender registers it again by itself"
    )
