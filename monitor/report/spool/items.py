"""The spool: what was observed and is not acknowledged yet, in a SQLite file in the run's output directory.

The training process appends, the uploader reads and removes. What is committed here survives the death of either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from monitor.errors import SpoolError
from monitor.report.spool.attempt import AttemptKey, Counts, SentRecord, SpooledAttempt
from monitor.report.spool.file import SPOOL_FILE, unusable
from monitor.report.spool.notes import SpoolNotes
from monitor.report.spool.on_the_way import new_record
from monitor.report.spool.thinning import FREED_AT_ONCE, Kept, kind_of, left_out

DEFAULT_MAX_BYTES = 512 * 1024 * 1024

_FORMAT_VERSION = 1
# How a problem begins that trying again does not solve. In words, as earlier versions show it as it is.
_REFUSED = "refused for good: "
_ROWS_AT_A_TIME = 256

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    run_id TEXT NOT NULL, attempt INTEGER NOT NULL, registration BLOB NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0, dropped INTEGER NOT NULL DEFAULT 0, last_sequence INTEGER NOT NULL DEFAULT 0,
    registered INTEGER NOT NULL DEFAULT 0, problem TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run_id, attempt)
);
CREATE TABLE IF NOT EXISTS items (
    run_id TEXT NOT NULL, attempt INTEGER NOT NULL, sequence INTEGER NOT NULL, item BLOB NOT NULL,
    PRIMARY KEY (run_id, attempt, sequence)
);
CREATE TABLE IF NOT EXISTS rejected (
    run_id TEXT NOT NULL, attempt INTEGER NOT NULL, sequence INTEGER NOT NULL, item BLOB NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (run_id, attempt, sequence)
);
"""

_ATTEMPTS = (
    "SELECT run_id, attempt, registration, finished, registered, dropped, last_sequence, "
    "(SELECT COUNT(*) FROM items WHERE items.run_id = attempts.run_id AND items.attempt = attempts.attempt), problem, "
    "(SELECT COUNT(*) FROM rejected WHERE rejected.run_id = attempts.run_id AND rejected.attempt = attempts.attempt), "
    "(SELECT reason FROM rejected WHERE rejected.run_id = attempts.run_id AND rejected.attempt = attempts.attempt "
    "ORDER BY sequence DESC LIMIT 1), "
    "(SELECT MIN(sequence) FROM items WHERE items.run_id = attempts.run_id AND items.attempt = attempts.attempt) "
    "FROM attempts"
)


class Spool(SpoolNotes):
    """One connection to the spool file in `directory`; use it from one thread.

    Args:
        directory: created if it does not exist.
        max_bytes: bound on the items kept; beyond it they are thinned out, see `left_out`, and what is left out is
            counted. None for no bound.
        read_only: nothing is written, and no directory made: for whoever looks on while the run goes on.

    Raises, from the constructor and from every method:
        SpoolError: the directory cannot be written, or the file is no spool or a newer one; later, the disk is full or
            away, or another process holds the file for too long. A change that raises leaves the file as it was.
    """

    def __init__(self, directory: Path, max_bytes: int | None = DEFAULT_MAX_BYTES, *, read_only: bool = False) -> None:
        super().__init__(directory, _SCHEMA, _FORMAT_VERSION, read_only=read_only)
        self._max_bytes = max_bytes

    # ------------------------------------------------------------------------------------------- the training process

    def latest_attempt(self, run_id: str) -> int:
        """Return the highest attempt of the run in this spool, 0 if there is none."""
        ((attempt,),) = self._read("SELECT COALESCE(MAX(attempt), 0) FROM attempts WHERE run_id = ?", (run_id,))
        return int(attempt)

    def begin(self, key: AttemptKey, registration: bytes) -> None:
        """Record the start of an attempt, which must be a new one."""
        self._change(
            "INSERT INTO attempts (run_id, attempt, registration) VALUES (?, ?, ?)",
            (key.run_id, key.attempt, registration),
        )

    def take_over(
        self,
        key: AttemptKey,
        registration: bytes,
        items: Iterable[tuple[int, bytes]],
        *,
        lost: Spool | None,
        counts: Counts,
    ) -> None:
        """Go on with an attempt that began in another spool, which was lost: all of what is left of it, or nothing.

        Args:
            items: (sequence, serialized Item) pairs that are known to have been there.
            lost: the other spool, of which is taken what can still be read.
            counts: what was counted there.
        """
        with self._transaction() as connection:
            of_attempt = (key.run_id, key.attempt)
            # Where a copy of the lost spool was put in its place, the attempt is known.
            connection.execute(
                "INSERT OR IGNORE INTO attempts (run_id, attempt, registration) VALUES (?, ?, ?)",
                (*of_attempt, registration),
            )
            connection.execute(
                "UPDATE attempts SET last_sequence = MAX(last_sequence, ?), dropped = MAX(dropped, ?) "
                "WHERE run_id = ? AND attempt = ?",
                (counts.last_sequence, counts.dropped, *of_attempt),
            )
            self._set_sent_record(key, counts.sent)
            for rows in (() if lost is None else lost._all_unsent(key), items):
                connection.executemany(
                    "INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?)", ((*of_attempt, *row) for row in rows)
                )

    def _all_unsent(self, key: AttemptKey) -> Iterator[tuple[int, bytes]]:
        after = 0
        with suppress(SpoolError):
            # Whoever holds it for longer than this does not let go of it.
            self._read("PRAGMA busy_timeout = 1000")
            while rows := self.unsent(key, after, _ROWS_AT_A_TIME):
                yield from rows
                after = rows[-1][0]

    def counts(self, key: AttemptKey) -> Counts:
        """Return what was counted of an attempt, of one moment: an uploader may be at work."""
        with self._one_moment():
            attempt = self.attempt(key)
            sent = self.sent_record(key)
        return Counts(attempt.last_sequence, attempt.dropped, sent.in_directory(self.directory))

    def leave(self, key: AttemptKey) -> None:
        """Forget the items of an attempt with which another spool goes on, and whose end is told from there."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM items WHERE run_id = ? AND attempt = ?", (key.run_id, key.attempt))
            connection.execute(
                "UPDATE attempts SET finished = 1 WHERE run_id = ? AND attempt = ?", (key.run_id, key.attempt)
            )

    def append(self, key: AttemptKey, items: Sequence[tuple[int, bytes]], *, finished: bool = False) -> None:
        """Commit (sequence, serialized Item) pairs, all or none.

        Args:
            finished: the last one says that the attempt is over.
        """
        rows = [(key.run_id, key.attempt, sequence, item) for sequence, item in items]
        with self._transaction() as connection:
            # REPLACE: an uploader that took this process for dead may have appended a Finish under the same number.
            connection.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", rows)
            # Missing sequence numbers are items that were lost before they got here.
            known = connection.execute(
                "UPDATE attempts SET dropped = dropped + MAX(0, :last - last_sequence - :appended), "
                "last_sequence = :last, finished = MAX(finished, :finished) "
                "WHERE run_id = :run_id AND attempt = :attempt",
                {
                    "last": items[-1][0],
                    "appended": len(items),
                    "finished": finished,
                    "run_id": key.run_id,
                    "attempt": key.attempt,
                },
            ).rowcount
            self._the_one([known][:known], _named(key))
            self._thin_beyond_bound()

    def _thin_beyond_bound(self) -> None:
        if self._max_bytes is None or self._used_bytes() <= self._max_bytes:
            return
        self._empty_rejected()
        if (excess := self._used_bytes() - self._max_bytes) <= 0:
            return
        rows = self._connection.execute(
            "SELECT run_id, attempt, sequence, LENGTH(item), SUBSTR(item, 1, 12) FROM items ORDER BY rowid"
        )
        kept = [
            Kept((run_id, attempt, kind_of(beginning)), sequence, size)
            for run_id, attempt, sequence, size, beginning in rows
        ]
        doomed = left_out(kept, excess + self._max_bytes // FREED_AT_ONCE)
        self._connection.executemany(
            "DELETE FROM items WHERE run_id = ? AND attempt = ? AND sequence = ?",
            [(*item.series[:2], item.sequence) for item in doomed],
        )
        self._connection.executemany(
            "UPDATE attempts SET dropped = dropped + 1 WHERE run_id = ? AND attempt = ?",
            [item.series[:2] for item in doomed],
        )

    def _empty_rejected(self) -> None:
        """Let what nobody will ever take go before what is yet to be delivered; its number and its reason stay."""
        rows = self._connection.execute("SELECT run_id, attempt, sequence, reason FROM rejected WHERE LENGTH(item) > 0")
        rejected = rows.fetchall()
        # Not an update, which leaves pages that are almost empty.
        self._connection.execute("DELETE FROM rejected WHERE LENGTH(item) > 0")
        self._connection.executemany("INSERT INTO rejected VALUES (?, ?, ?, x'', ?)", rejected)

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    # -------------------------------------------------------------------------------------------------- the uploader

    def newest(self) -> AttemptKey:
        """Return the attempt that began last; there is one."""
        rows = self._read("SELECT run_id, attempt FROM attempts ORDER BY rowid DESC LIMIT 1")
        return AttemptKey(*self._the_one(rows, "any attempt"))

    def attempts(self) -> list[SpooledAttempt]:
        """Return the attempts, the oldest first."""
        return [_spooled_attempt(row) for row in self._read(f"{_ATTEMPTS} ORDER BY rowid")]

    def attempt(self, key: AttemptKey) -> SpooledAttempt:
        """Return one attempt; it has begun here."""
        rows = self._read(f"{_ATTEMPTS} WHERE run_id = ? AND attempt = ?", (key.run_id, key.attempt))
        return _spooled_attempt(self._the_one(rows, _named(key)))

    def _the_one(self, rows: Sequence[Any], expected: str) -> Any:
        if not rows:
            raise unusable(self.directory, f"{SPOOL_FILE} does not hold {expected}; it may have been replaced")
        return rows[0]

    def unsent(self, key: AttemptKey, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return the next (sequence, serialized Item) pairs after a sequence number, at most `limit`."""
        return self._read(
            "SELECT sequence, item FROM items "
            "WHERE run_id = ? AND attempt = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            (key.run_id, key.attempt, after, limit),
        )

    def larger_than(self, key: AttemptKey, size: int) -> list[tuple[int, int]]:
        """Return (sequence, bytes) of the items of more than `size` bytes."""
        return self._read(
            "SELECT sequence, LENGTH(item) FROM items WHERE run_id = ? AND attempt = ? AND LENGTH(item) > ?",
            (key.run_id, key.attempt, size),
        )

    def acknowledge(self, key: AttemptKey, sequence: int, sent: Sequence[int] = ()) -> None:
        """Remove the items up to a sequence number: the service has them.

        Args:
            sent: the numbers of those that were sent. One that was left out meanwhile is not dropped after all.
        """
        with self._transaction() as connection:
            self._take_back(key, sent)
            self._settle(key, sequence)
            connection.execute(
                "DELETE FROM items WHERE run_id = ? AND attempt = ? AND sequence <= ?",
                (key.run_id, key.attempt, sequence),
            )

    def begin_sending(self, key: AttemptKey, last: int, sent: Sequence[int]) -> tuple[list[int], str]:
        """Count what the service has of an attempt when a connection begins, and remove none of it.

        Args:
            last: the highest number that it has.
            sent: see `acknowledge`.

        Returns:
            the numbers of the items here that the service has, and the name of a new record that begins with them.
        """
        with self._transaction() as connection:
            self._take_back(key, sent)
            rows = connection.execute(
                "SELECT sequence FROM items WHERE run_id = ? AND attempt = ? AND sequence <= ? ORDER BY sequence",
                (key.run_id, key.attempt, last),
            )
            known = [sequence for (sequence,) in rows]
            # In one commit with what is taken back: whoever reads the record takes nothing back twice.
            record = new_record(self.directory, known)
            self._set_sent_record(key, SentRecord(record))
        return known, record

    def _take_back(self, key: AttemptKey, arrived: Sequence[int]) -> None:
        """Count no item as dropped that was left out and has arrived. All that is here between them was sent, too."""
        if not arrived:
            return
        ((here,),) = self._connection.execute(
            "SELECT COUNT(*) FROM items WHERE run_id = ? AND attempt = ? AND sequence BETWEEN ? AND ?",
            (key.run_id, key.attempt, arrived[0], arrived[-1]),
        )
        if here < len(arrived):
            self._connection.execute(
                "UPDATE attempts SET dropped = MAX(0, dropped - ?) WHERE run_id = ? AND attempt = ?",
                (len(arrived) - here, key.run_id, key.attempt),
            )

    def reject(self, key: AttemptKey, sequence: int, reason: str, *, answered: bool = True) -> None:
        """Set an item aside that the service will never take. It stays in the file, for inspection, until that is full.

        Args:
            answered: it was sent, and the service says so.
        """
        where = (key.run_id, key.attempt, sequence)
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO rejected SELECT run_id, attempt, sequence, item, ? FROM items "
                "WHERE run_id = ? AND attempt = ? AND sequence = ?",
                (reason, *where),
            )
            gone = connection.execute(
                "DELETE FROM items WHERE run_id = ? AND attempt = ? AND sequence = ?", where
            ).rowcount
            connection.execute(
                "UPDATE attempts SET dropped = dropped + ? WHERE run_id = ? AND attempt = ?",
                (gone, key.run_id, key.attempt),
            )
            if answered:
                # And what was sent before it.
                self._settle(key, sequence)

    def rename(self, key: AttemptKey, new: AttemptKey, registration: bytes) -> None:
        """Give an attempt that the service never accepted another identity; `new` is not in this spool."""
        with self._transaction() as connection:
            for table in ("attempts", "items", "rejected"):
                connection.execute(
                    f"UPDATE {table} SET run_id = ?, attempt = ? WHERE run_id = ? AND attempt = ?",
                    (new.run_id, new.attempt, key.run_id, key.attempt),
                )
            connection.execute(
                "UPDATE attempts SET registration = ?, problem = '' WHERE run_id = ? AND attempt = ?",
                (registration, new.run_id, new.attempt),
            )

    def set_registered(self, key: AttemptKey) -> None:
        """Record that the service accepted the attempt, and that there is no problem now."""
        self._change(
            "UPDATE attempts SET registered = 1, problem = '' WHERE run_id = ? AND attempt = ?",
            (key.run_id, key.attempt),
        )

    def set_problem(self, key: AttemptKey, problem: str, *, refused: bool = False) -> None:
        """Record why the attempt cannot be delivered; the training process logs it.

        Args:
            refused: trying again does not help.
        """
        problem = _REFUSED * refused + problem
        self._change(
            "UPDATE attempts SET problem = ? WHERE run_id = ? AND attempt = ?", (problem, key.run_id, key.attempt)
        )


def _named(key: AttemptKey) -> str:
    return f"attempt {key.attempt} of run {key.run_id!r}"


def _spooled_attempt(row: Sequence[Any]) -> SpooledAttempt:
    run_id, attempt, registration, finished, registered, dropped, last_sequence, unsent, *rest = row
    problem, rejected, rejection, first_unsent = rest
    return SpooledAttempt(
        key=AttemptKey(run_id, attempt),
        registration=registration,
        finished=bool(finished),
        registered=bool(registered),
        dropped=dropped,
        last_sequence=last_sequence,
        unsent=unsent,
        problem=problem.removeprefix(_REFUSED),
        refused=problem.startswith(_REFUSED),
        rejected=rejected,
        rejection=rejection or "",
        first_unsent=first_unsent,
    )
