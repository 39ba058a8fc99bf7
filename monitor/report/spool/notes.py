"""What an uploader notes in the spool for those after it, beside the items: what it sent, and which addresses refuse.

In tables that files of earlier versions do not have: they are made when something is first written to them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from monitor.report.spool.attempt import AttemptKey, SentRecord
from monitor.report.spool.file import SpoolFile
from monitor.report.spool.on_the_way import noted

_TABLES = (
    """CREATE TABLE IF NOT EXISTS on_the_way (
        run_id TEXT NOT NULL, attempt INTEGER NOT NULL, record TEXT NOT NULL, settled INTEGER NOT NULL,
        PRIMARY KEY (run_id, attempt)
    )""",
    "CREATE TABLE IF NOT EXISTS refusing (address TEXT NOT NULL PRIMARY KEY, problem TEXT NOT NULL)",
)


class SpoolNotes(SpoolFile):
    """The part of a spool that holds them. See SpoolFile for what is raised."""

    def refusing(self) -> dict[str, str]:
        """Return why addresses of the target take nothing, though others may: address → reason."""
        return dict(self._read("SELECT address, problem FROM refusing")) if self._holds("refusing") else {}

    def set_refusing(self, refusing: Mapping[str, str]) -> None:
        """Record which addresses do, instead of what was recorded before."""
        with self._transaction() as connection:
            _make_tables(connection)
            connection.execute("DELETE FROM refusing")
            connection.executemany("INSERT INTO refusing VALUES (?, ?)", list(refusing.items()))

    def sent_record(self, key: AttemptKey) -> SentRecord:
        """Return the record of what was sent of an attempt."""
        rows = self._of_attempt("SELECT record, settled FROM on_the_way WHERE run_id = ? AND attempt = ?", key)
        return SentRecord(*rows[0]) if rows else SentRecord()

    def sent_before(self, key: AttemptKey) -> list[int]:
        """Return the numbers of items that an earlier uploader sent, and of which it is not known what became."""
        record = self.sent_record(key)
        if not record.path:
            return []
        return [number for number in noted(self.directory / record.path) if number > record.settled]

    def forget_sent(self, key: AttemptKey) -> None:
        """Forget what was sent of an attempt, all of which has arrived."""
        self._change("DELETE FROM on_the_way WHERE run_id = ? AND attempt = ?", (key.run_id, key.attempt))

    def records(self) -> list[str]:
        """Return the paths of all records that attempts have."""
        rows = self._read("SELECT record FROM on_the_way") if self._holds("on_the_way") else []
        return [path for (path,) in rows]

    def _of_attempt(self, query: str, key: AttemptKey) -> list[Any]:
        return self._read(query, (key.run_id, key.attempt)) if self._holds("on_the_way") else []

    def _holds(self, table: str) -> bool:
        return bool(self._read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)))

    def _set_sent_record(self, key: AttemptKey, record: SentRecord) -> None:
        """In a transaction."""
        _make_tables(self._connection)
        self._connection.execute(
            "INSERT OR REPLACE INTO on_the_way VALUES (?, ?, ?, ?)",
            (key.run_id, key.attempt, record.path, record.settled),
        )

    def _settle(self, key: AttemptKey, sequence: int) -> None:
        """In a transaction."""
        _make_tables(self._connection)
        self._connection.execute(
            "UPDATE on_the_way SET settled = MAX(settled, ?) WHERE run_id = ? AND attempt = ?",
            (sequence, key.run_id, key.attempt),
        )


def _make_tables(connection: sqlite3.Connection) -> None:
    for table in _TABLES:
        connection.execute(table)
