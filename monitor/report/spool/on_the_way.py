"""What of an attempt was sent: an item that leaves the full spool on its way is lost only if it does not arrive.

Noted in a file beside the spool, too, for the next uploader where this one is killed. Without waiting for the disk: the
page cache outlives a process, and where the machine dies, the spool has the name of a record that says less, not more.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

_PREFIX = "on-the-way-"
# Beyond it, what has arrived is left out of the file.
_MOST_BYTES = 256 * 1024


class OnTheWay:
    """The numbers of items that were sent and are not acknowledged, in order. They outlive a connection that breaks.

    Args:
        directory: where they are noted.
        sent: what an earlier uploader noted, and is not acknowledged.
    """

    def __init__(self, directory: Path, sent: Iterable[int] = ()) -> None:
        self._directory = directory
        self._sent = deque(sent)
        self._record: Path | None = None
        self._file: int | None = None
        self._size = 0

    def send(self, sequences: Iterable[int]) -> None:
        """Note items, in order, before they are sent, unless they are sent again."""
        last = self._sent[-1] if self._sent else 0
        new = [sequence for sequence in sequences if sequence > last]
        self._sent.extend(new)
        self._note(new)

    def reject(self, sequence: int) -> None:
        """Forget an item that the service refused."""
        if sequence in self._sent:
            self._sent.remove(sequence)

    def up_to(self, last: int) -> list[int]:
        """Return those up to a number."""
        return list(takewhile(lambda sequence: sequence <= last, self._sent))

    def arrive(self, last: int) -> None:
        """Forget those up to a number, which is acknowledged, in the spool too."""
        while self._sent and self._sent[0] <= last:
            self._sent.popleft()
        if self._size > _MOST_BYTES:
            self._shorten()

    def begin_again(self, known: Iterable[int], record: str) -> None:
        """Forget what a connection that broke did not carry.

        Args:
            known: what the service has, and is yet to be removed from the spool.
            record: the file in which it is, and what is sent from now on is noted; empty where nothing can be.
        """
        self.close()
        self._sent = deque(known)
        self._record = self._directory / record if record else None
        if self._record is not None:
            with suppress(OSError):
                self._file = _opened(self._record)

    def close(self) -> None:
        """Note no more. What is noted stays."""
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
        self._file, self._size = None, 0

    def _note(self, sequences: Sequence[int]) -> None:
        if self._file is None or not sequences:
            return
        line = _line(sequences)
        try:
            written = os.write(self._file, line)
        except OSError:
            written = 0
        self._size += written
        if written < len(line):
            # What comes after half a line would be read as something else.
            self.close()

    def _shorten(self) -> None:
        if self._file is None or self._record is None:
            return
        self.close()
        with suppress(OSError):
            _write(self._record.with_name(f"{self._record.name}.shorter"), self._sent).replace(self._record)
            self._file = _opened(self._record)


def _opened(record: Path) -> int:
    return os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


def _line(sequences: Iterable[int]) -> bytes:
    return f"{' '.join(map(str, sequences))}\n".encode()


def _write(record: Path, sequences: Iterable[int]) -> Path:
    record.write_bytes(_line(sequences))
    return record


def new_record(directory: Path, sequences: Iterable[int]) -> str:
    """Make a record of numbers, and return its name; empty where none can be made."""
    try:
        return _write(directory / f"{_PREFIX}{secrets.token_hex(4)}", sequences).name
    except OSError:
        return ""


def noted(record: Path) -> list[int]:
    """Return the numbers in a record, in order: those of its whole lines."""
    with suppress(OSError, ValueError):
        lines = record.read_text("ascii").split("\n")[:-1]
        return [int(number) for line in lines for number in line.split()]
    return []


def remove_records(directory: Path, used: Iterable[str]) -> None:
    """Remove the records that no attempt has."""
    names = {Path(name).name for name in used}
    with suppress(OSError):
        for path in directory.glob(f"{_PREFIX}*"):
            if path.name not in names:
                path.unlink()
