"""The latest items of an attempt, in memory: what waits for a disk that takes it, and what the service may not have.

The latter is committed, and kept here, too: its file may be deleted before it is delivered.
"""

from __future__ import annotations

from monitor.report.spool.thinning import FREED_AT_ONCE, Kept, kind_of, left_out

# Some thousand observations of a large model.
MAX_BYTES = 64 * 1024 * 1024


class Backlog:
    """Items by sequence number, up to a bound in bytes.

    Beyond the bound, what is committed is forgotten first, the oldest of it. Then what waits is thinned out, see
    `left_out`; the last item, which may be the run's Finish, stays. The spool counts what is missing when the next item
    is appended.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = self._waiting_bytes = 0
        self._committed: dict[int, bytes] = {}
        self._waiting: dict[int, bytes] = {}
        # Highest sequence number of what was committed and found no room; 0 where nothing was.
        self.last_forgotten = 0
        # Highest sequence number that is committed.
        self.last_committed = 0
        # The last of what waits says that the attempt is over.
        self.is_finished = False

    def __len__(self) -> int:
        """Return how many items wait to be committed."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether something is to be committed before more is added, or what waits may be thinned out."""
        return 2 * self._waiting_bytes >= self._max_bytes

    def add(self, sequence: int, item: bytes, *, finishes: bool) -> int:
        """Let an item wait, and return how many were left out for it; sequence numbers rise."""
        self._waiting[sequence] = item
        self._bytes += len(item)
        self._waiting_bytes += len(item)
        self.is_finished = self.is_finished or finishes
        while self._bytes > self._max_bytes and self._committed:
            self.last_forgotten = next(iter(self._committed))
            self._bytes -= len(self._committed.pop(self.last_forgotten))
        excess = self._bytes - self._max_bytes
        return self._thin(excess + self._max_bytes // FREED_AT_ONCE) if excess > 0 else 0

    def _thin(self, excess: int) -> int:
        kept = [Kept((kind_of(item),), sequence, len(item)) for sequence, item in self._waiting.items()]
        doomed = left_out(kept, excess)
        for item in doomed:
            del self._waiting[item.sequence]
            self._bytes -= item.size
            self._waiting_bytes -= item.size
        return len(doomed)

    def waiting(self) -> list[tuple[int, bytes]]:
        """Return the (sequence, serialized Item) pairs that are not committed."""
        return list(self._waiting.items())

    def committed(self) -> list[tuple[int, bytes]]:
        """Return those that are committed, and that the service may not have."""
        return list(self._committed.items())

    def commit(self) -> None:
        """What waited is committed."""
        if self._waiting:
            self.last_committed = next(reversed(self._waiting))
        self._committed |= self._waiting
        self._waiting = {}
        self._waiting_bytes = 0

    def acknowledge(self, first_unsent: int | None) -> None:
        """Forget what the service has: all that is committed, up to the first item that it does not."""
        while self._committed:
            sequence = next(iter(self._committed))
            if first_unsent is not None and sequence >= first_unsent:
                return
            self._bytes -= len(self._committed.pop(sequence))
