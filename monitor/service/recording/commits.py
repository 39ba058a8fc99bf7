"""What many streams bring, in few transactions: each takes all that has come while the one before was written."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from monitor.service.errors import StandingByError, StoreError
from monitor.service.live.runs import LiveRuns, from_store
from monitor.service.metrics.instruments import Instruments
from monitor.service.recording.judging import Judge
from monitor.service.recording.received import Received
from monitor.service.storage.store import Store
from monitor.service.storage.stored import Batch
from monitor.wire.monitor_pb2 import Heartbeat

_MOST_ITEMS = 1000
"""Of one transaction, besides the batch that goes beyond it: what is asked of the store meanwhile waits for it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item: stored now or earlier, or rejected for a reason."""

    sequence: int
    rejected: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """Whose items a stream brings, and who decides of them."""

    run_id: str
    number: int
    judge: Judge


@dataclass(frozen=True, eq=False, slots=True)
class _Brought:
    """What waits to be stored, and who waits for it."""

    attempt: Attempt
    items: Sequence[Received]
    heartbeat: Heartbeat | None
    outcomes: asyncio.Future[list[Outcome]]


_Results: TypeAlias = "list[tuple[_Brought, list[Outcome] | Exception]]"
"""What became of each of some batches."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A batch without the items that can never be stored."""

    brought: _Brought
    good: Batch
    outcomes: list[Outcome]


class Commits:
    """Stores batches, then brings the live state up to date.

    The asyncio loop and the store's thread meet once for each transaction, however many streams wait for it.

    Args:
        in_thread: has something done in the store's thread, after all that it was given before.
        store: returns the store that is to be written to. Called in that thread.
    """

    def __init__(
        self,
        in_thread: Callable[[Callable[[], _Results]], Awaitable[_Results]],
        store: Callable[[], Store],
        live: LiveRuns,
        instruments: Instruments,
    ) -> None:
        self._in_thread = in_thread
        self._store = store
        self._live = live
        self._instruments = instruments
        self._lock = threading.Lock()
        self._waiting: deque[_Brought] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._uncertain: set[str] = set()

    async def add(self, attempt: Attempt, items: Sequence[Received], heartbeat: Heartbeat | None) -> list[Outcome]:
        """Have items of an attempt stored, and return what became of each, in their order.

        Raises:
            StoreError: the store failed; nothing of these is recorded.
        """
        brought = _Brought(attempt, items, heartbeat, asyncio.get_running_loop().create_future())
        with self._lock:
            self._waiting.append(brought)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        try:
            return await brought.outcomes
        except asyncio.CancelledError:
            self._withdraw(brought)
            raise

    def _withdraw(self, brought: _Brought) -> None:
        """Leave a batch unstored that nobody waits for any more, unless it is on its way."""
        with self._lock:
            if brought in self._waiting:
                self._waiting.remove(brought)

    async def _write(self) -> None:
        try:
            while self._waiting:
                try:
                    results = await self._in_thread(self._stored_next)
                except Exception as error:  # noqa: BLE001 - each that waits for it raises it
                    results = [(brought, error) for brought in self._take(math.inf)]
                for brought, result in results:
                    self._tell(brought, result)
        finally:
            # However it ends: the next that is brought begins anew.
            self._writer = None

    def _tell(self, brought: _Brought, result: list[Outcome] | Exception) -> None:
        if isinstance(result, StoreError) and not isinstance(result, StandingByError):
            self._instruments.store_errors.inc()
        if brought.outcomes.done():
            # Its sender went away.
            return
        if isinstance(result, Exception):
            brought.outcomes.set_exception(result)
        else:
            brought.outcomes.set_result(result)

    def _take(self, most: float) -> list[_Brought]:
        """Take the batches that wait longest, each run's in their order, with `most` items and those of the last."""
        taken: list[_Brought] = []
        items = 0
        with self._lock:
            while self._waiting and items < most:
                taken.append(self._waiting.popleft())
                items += len(taken[-1].items)
        return taken

    def _stored_next(self) -> _Results:
        """Store what waits now, and return what became of each batch."""
        together = self._take(_MOST_ITEMS)
        try:
            return self._stored_or_parts([self._judged(brought) for brought in together])
        except Exception as error:  # noqa: BLE001 - each that waits for it raises it
            return [(brought, error) for brought in together]

    def _stored_or_parts(self, judged: Sequence[_Judged]) -> _Results:
        try:
            self._store_all(judged)
        except StoreError as error:
            if len(judged) == 1:
                return [(judged[0].brought, error)]
            # It may be the trouble of one of them.
            return [result for each in judged for result in self._stored_or_parts([each])]
        return [(each.brought, each.outcomes) for each in judged]

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

    def _read_anew(self, run_ids: set[str]) -> set[str]:
        """Take from the store the runs of which the live state may lack something, and return which they are."""
        anew = {run_id for run_id in run_ids if run_id in self._uncertain or self._live.get(run_id) is None}
        for run_id in anew:
            self._live.put(from_store(self._store().run(run_id)))
        self._uncertain -= anew
        return anew

    def _bring_to_life(self, batch: Batch, new: set[int], now: float) -> None:
        stored = [storable.item for storable in batch.first_of(new)]
        self._live.record(*batch.key, stored, observed=batch.brings_observation, heartbeat=batch.heartbeat, now=now)

    def _judged(self, brought: _Brought) -> _Judged:
        judgements = brought.attempt.judge.judge(brought.items)
        for limit in chain.from_iterable(judgement.limits for judgement in judgements):
            self._instruments.limit_hits.labels(limit).inc()
        good = [judgement.storable for judgement in judgements if judgement.storable is not None]
        batch = Batch(brought.attempt.run_id, brought.attempt.number, good, brought.heartbeat)
        return _Judged(brought, batch, [Outcome(each.sequence, each.rejected) for each in judgements])

    def _count(self, judged: _Judged, new: set[int]) -> None:
        good, outcomes = judged.good.items, judged.outcomes
        self._instruments.items_stored.inc(len(new))
        self._instruments.items_duplicate.inc(len(good) - len(new))
        self._instruments.items_rejected.inc(len(outcomes) - len(good))
