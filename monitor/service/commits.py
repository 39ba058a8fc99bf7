"""What many streams bring, in few transactions: each takes all that has come while the one before was written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from monitor.service.errors import StoreError, UnstorableItemError
from monitor.service.instruments import Instruments
from monitor.service.items import ItemCheck
from monitor.service.live import LiveRuns, from_store
from monitor.service.received import Received
from monitor.service.store import Store
from monitor.service.stored import Batch

_MOST_ITEMS = 1000
"""Of one transaction, besides the batch that goes beyond it: what is asked of the store meanwhile waits for it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item: stored now or earlier, or rejected for a reason."""

    sequence: int
    rejected: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Brought:
    """A batch that waits to be stored, and what its items have to fit."""

    batch: Batch
    check: ItemCheck
    outcomes: Future[list[Outcome]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A batch without the items that can never be stored."""

    brought: Brought
    good: Batch
    outcomes: list[Outcome]


class Commits:
    """Stores batches, then brings the live state up to date. `outcomes` belongs to the store's thread.

    Args:
        store: returns the store that is to be written to.
    """

    def __init__(self, store: Callable[[], Store], live: LiveRuns, instruments: Instruments) -> None:
        self._store = store
        self._live = live
        self._instruments = instruments
        self._lock = threading.Lock()
        self._waiting: list[Brought] = []
        self._uncertain: set[str] = set()

    def bring(self, batch: Batch, check: ItemCheck) -> Brought:
        """Have a batch stored with the next transaction that somebody waits for."""
        brought = Brought(batch, check)
        with self._lock:
            self._waiting.append(brought)
        return brought

    def withdraw(self, brought: Brought) -> None:
        """Leave a batch unstored that nobody waits for any more, unless it is on its way."""
        with self._lock:
            if brought in self._waiting:
                self._waiting.remove(brought)
                brought.outcomes.cancel()

    def outcomes(self, brought: Brought) -> list[Outcome]:
        """Wait until a batch is stored, and return what became of its items, in their order.

        Raises:
            StoreError: the store failed; nothing of this batch is recorded.
        """
        while not brought.outcomes.done():
            self._record(self._next())
        return brought.outcomes.result()

    def _next(self) -> list[Brought]:
        """Take the batches that wait longest, each run's in their order."""
        taken: list[Brought] = []
        with self._lock:
            while self._waiting and sum(len(each.batch.items) for each in taken) < _MOST_ITEMS:
                taken.append(self._waiting.pop(0))
        return taken

    def _record(self, together: Sequence[Brought]) -> None:
        try:
            self._store_or_part([self._judged(brought) for brought in together])
        except Exception as error:  # noqa: BLE001 - each that waits for it raises it
            for brought in together:
                if not brought.outcomes.done():
                    brought.outcomes.set_exception(error)

    def _store_or_part(self, judged: Sequence[_Judged]) -> None:
        try:
            self._store_all(judged)
        except StoreError as error:
            if len(judged) == 1:
                judged[0].brought.outcomes.set_exception(error)
                return
            # It may be the trouble of one of them.
            for each in judged:
                self._store_or_part([each])

    def _store_all(self, judged: Sequence[_Judged]) -> None:
        now = time.time()
        run_ids = {each.good.run_id for each in judged}
        try:
            with self._instruments.store_commits.time():
                new = self._store().add([each.good for each in judged], now)
            anew = self._read_anew(run_ids)
            for each, numbers in zip(judged, new, strict=True):
                self._bring_to_life(each.good, set() if each.good.run_id in anew else numbers, now)
        except Exception:
            # It may be stored after all, and then it is not new when it comes again.
            self._uncertain |= run_ids
            raise
        for each, numbers in zip(judged, new, strict=True):
            self._count(each, numbers)
            each.brought.outcomes.set_result(each.outcomes)

    def _read_anew(self, run_ids: set[str]) -> set[str]:
        """Take from the store the runs of which the live state may lack something, and return which they are."""
        anew = {run_id for run_id in run_ids if run_id in self._uncertain or self._live.get(run_id) is None}
        for run_id in anew:
            self._live.put(from_store(self._store().run(run_id)))
        self._uncertain -= anew
        return anew

    def _bring_to_life(self, batch: Batch, new: set[int], now: float) -> None:
        stored = [received.item for received in batch.first_of(new)]
        self._live.record(*batch.key, stored, observed=batch.brings_observation, heartbeat=batch.heartbeat, now=now)

    def _judged(self, brought: Brought) -> _Judged:
        batch = brought.batch
        outcomes = [self._judge(brought.check, received) for received in batch.items]
        good = [each for each, outcome in zip(batch.items, outcomes, strict=True) if outcome.rejected is None]
        return _Judged(brought, Batch(batch.run_id, batch.attempt, good, batch.heartbeat), outcomes)

    def _judge(self, check: ItemCheck, received: Received) -> Outcome:
        item = received.item
        try:
            check.check(received)
        except UnstorableItemError as error:
            if error.limit:
                self._instruments.limit_hits.labels(error.limit).inc()
            return Outcome(item.sequence, str(error))
        for limit in check.trim(received):
            self._instruments.limit_hits.labels(limit).inc()
        return Outcome(item.sequence)

    def _count(self, judged: _Judged, new: set[int]) -> None:
        good, outcomes = judged.good.items, judged.outcomes
        self._instruments.items_stored.inc(len(new))
        self._instruments.items_duplicate.inc(len(good) - len(new))
        self._instruments.items_rejected.inc(len(outcomes) - len(good))
