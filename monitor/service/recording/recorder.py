"""Between the streams and the store: one thread that commits, then brings the live state up to date.

The asyncio loop awaits it. An item counts as recorded, and may be acknowledged, when `record` returns.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from monitor.service.access.tokens import Token
from monitor.service.errors import (
    LimitError,
    StandingByError,
    StoreError,
    StoreInUseError,
    UnknownRunError,
    shortened,
)
from monitor.service.live.runs import LiveRuns, from_store
from monitor.service.metrics.instruments import Instruments
from monitor.service.quantities.fields import FIELDS
from monitor.service.recording.commits import Attempt, Commits, Outcome
from monitor.service.recording.judging import Judge
from monitor.service.recording.received import Received
from monitor.service.recording.registration import check_registration
from monitor.service.recording.starts import check_start
from monitor.service.settings import ServiceSettings
from monitor.service.storage.queries.curves import Curve, Range
from monitor.service.storage.store import Store
from monitor.service.storage.stored import Position, StoredItem
from monitor.service.storage.waiting import Waiting
from monitor.wire.channel import STANDS_BY
from monitor.wire.monitor_pb2 import Heartbeat, Registration

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long a scrape waits to know whether the store is still held.
_CONFIRMED_WITHIN_SECONDS = 5.0
_OBSERVATIONS_AT_A_TIME = 10


class Recorder:
    """Everything that reads or writes the store.

    Attributes:
        stands_by: why nothing is taken or shown, where another service has the store and this one waits for it; else
            empty.

    Raises, from every method:
        StoreError: the store failed; what was given is not recorded.
        StandingByError: another service has it, and this one was asked to wait.
    """

    def __init__(self, settings: ServiceSettings, instruments: Instruments) -> None:
        """Open the store and read the present of its runs, or begin to wait for it.

        Raises:
            StoreError: it cannot be opened.
        """
        self._settings = settings
        self._instruments = instruments
        self.live = LiveRuns(())
        self.stands_by = ""
        self._store: Store | None = None
        self._waiting: Waiting | None = None
        self._commits = Commits(self._store_in_thread, self._opened, self.live, instruments)
        self._take_or_wait(again=False)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    async def register(self, registration: Registration, sent_at: float = 0.0) -> int:
        """Record an attempt, and return its highest stored sequence number, 0 if none.

        Args:
            sent_at: see `check_start`.

        Raises:
            InvalidRegistrationError, ContradictingRegistrationError, IncomparableAttemptError.
            RunInUseError, RunTakenError: see `check_start`.
        """
        while await self._in_thread(lambda: self._go_on_deleting(registration.run_id)):
            # One step at a time: what other runs report is stored in between.
            pass
        return await self._in_thread(lambda: self._register(registration, sent_at))

    def open(self, run_id: str, attempt: int) -> Attempt:
        """Return the attempt that items are to be recorded for.

        Raises:
            UnknownRunError: it was never registered.
        """
        run = self.live.get(run_id)
        if run is None or attempt not in run.registrations:
            raise UnknownRunError(
                f"attempt {attempt} of run {shortened(run_id)} is not registered here; call RegisterRun before Report"
            )
        return Attempt(run_id, attempt, Judge(run.registrations[attempt], self._settings))

    async def record(self, attempt: Attempt, items: Sequence[Received], heartbeat: Heartbeat | None) -> list[Outcome]:
        """Record the items in one transaction, and return what became of each, in their order."""
        return await self._commits.add(attempt, items, heartbeat)

    async def history(self, run_id: str, after: Position, limit: int, kind: str | None = None) -> list[StoredItem]:
        """Return at most `limit` items behind `after`, see `Store.history`."""
        return await self._in_thread(lambda: self._opened().history(run_id, after, limit, kind))

    async def extent(self, run_id: str) -> tuple[int, int] | None:
        """Return the first and the last step that a run has curves of, see `Store.extent`."""
        return await self._in_thread(lambda: self._opened().extent(run_id))

    async def curves(self, run_id: str, names: Sequence[str], steps: Range, weights: int) -> dict[str, Curve]:
        """Return curves of a run, thinned, see `Store.curves`."""
        found: dict[str, Curve] = {}
        # What every run has is read together, the others one by one: acknowledgements come in between.
        of_all = [name for name in names if name in FIELDS]
        for some in (of_all, *([name] for name in names if name not in FIELDS)):
            found |= await self._in_thread(partial(self._curves, run_id, some, steps, weights))
        return {name: found[name] for name in names if name in found}

    async def last_observations(self, run_id: str, steps: Range) -> AsyncIterator[list[StoredItem]]:
        """Yield the last observation of each bucket of steps, a few at a time: those of a large model are large."""
        positions, first = await self._in_thread(lambda: self._first_of_last_observations(run_id, steps))
        yield first
        for start in range(_OBSERVATIONS_AT_A_TIME, len(positions), _OBSERVATIONS_AT_A_TIME):
            some = positions[start : start + _OBSERVATIONS_AT_A_TIME]
            yield await self._in_thread(partial(self._items_at, run_id, some))

    async def announce(self, grpc_address: str, http_address: str) -> None:
        """Let others who want the store know where it is served."""
        await self._in_thread(lambda: self._opened().announce(grpc_address, http_address))

    async def care(self, call: Callable[[Store], T]) -> T:
        """Have something done with the store, and the live state, between what runs report and what is asked."""
        return await self._in_thread(lambda: call(self._opened()))

    async def tokens(self) -> list[Token]:
        """Return the tokens that are kept in the store. That they cannot be read counts as no failure of the store.

        Not through a connection of its own: one that is opened anew, where the file was replaced by another, would
        write the log of the one into the other.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._tokens)

    async def ping(self) -> None:
        """Write to the store, to see that it takes anything."""
        await self._in_thread(lambda: self._opened().ping())

    async def keep(self) -> None:
        """Look whether the store is still held, or may be taken. What keeps it from being so is logged, not raised."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._keep)

    async def is_present(self) -> bool:
        """Return whether what is known of the runs is their present, as far as several services may show them."""
        if not self._settings.standby:
            return True
        try:
            await asyncio.wait_for(self._in_thread(self._opened), _CONFIRMED_WITHIN_SECONDS)
        except (StoreError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Finish what is in flight, and close the store."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        try:
            return await self._store_in_thread(call)
        except StandingByError:
            # Nothing failed.
            raise
        except StoreError:
            self._instruments.store_errors.inc()
            raise

    async def _store_in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._with_store, call)

    def _with_store(self, call: Callable[[], T]) -> T:
        if not self._opened().is_held():
            self._take_anew()
        return call()

    def _opened(self) -> Store:
        if self._store is None:
            raise StandingByError(self.stands_by)
        return self._store

    def _take_or_wait(self, *, again: bool) -> None:
        """Open the store and read its present, or wait for it where that was asked for.

        Raises:
            StoreInUseError: another service has it, and nobody asked to wait.
        """
        while not (self._settings.standby and self._waits_for_another()):
            try:
                self._take(again=again)
            except StoreInUseError:
                if not self._settings.standby:
                    raise
                # Nobody had it, and another one was faster.
            else:
                return
        logger.info("%s", self.stands_by)

    def _waits_for_another(self) -> bool:
        """Begin to wait if another service has the store, and return whether one has."""
        waiting = Waiting(self._settings.store_url)
        try:
            holder = waiting.holder()
        except StoreError:
            waiting.close()
            raise
        if holder is None:
            waiting.close()
            return False
        self._say_who_has_it(holder)
        self._store, self._waiting = None, waiting
        return True

    def _take(self, *, again: bool) -> None:
        store = Store(self._settings.store_url, again=again)
        try:
            self.live.replace(store.run(run_id) for run_id in store.run_ids())
        except StoreError:
            store.close()
            raise
        # Reading a large store takes longer than a run may be silent.
        self._up_since = time.time()
        self._store, self.stands_by = store, ""

    def _take_anew(self) -> None:
        """Take the store again after its connection was lost: another service may have had it since, or have it."""
        self._opened().close()
        self._take_or_wait(again=True)
        self._opened()
        logger.warning("the connection to the database was lost and is back: what runs reported is read anew")

    def _keep(self) -> None:
        try:
            if self._waiting is None:
                self._with_store(self._opened)
            elif (holder := self._waiting.holder()) is not None:
                self._say_who_has_it(holder)
            else:
                self._take(again=True)
                self._waiting.close()
                self._waiting = None
                logger.warning("the store is free: this service has taken it over, and serves")
        except StandingByError:
            logger.warning("the connection to the database was lost, and the store with it")
        except StoreInUseError:
            # A third service was faster, and is named with the next look.
            pass
        except StoreError as error:
            self._say_trouble(str(error))

    def _say_who_has_it(self, holder: str) -> None:
        self.stands_by = (
            f"{STANDS_BY}: the store is served by {holder}. When that one ends, this one takes over; a "
            "target that names both finds the one that serves"
        )

    def _say_trouble(self, trouble: str) -> None:
        if self._waiting is not None:
            self.stands_by = f"{STANDS_BY}, and cannot see whether it is to serve: {trouble}"

    def _tokens(self) -> list[Token]:
        if self._waiting is not None:
            return self._waiting.tokens()
        return self._with_store(lambda: self._opened().tokens())

    def _close(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
        if self._store is not None:
            self._store.close()

    def _curves(self, run_id: str, names: Sequence[str], steps: Range, weights: int) -> dict[str, Curve]:
        return self._opened().curves(run_id, names, steps, weights)

    def _items_at(self, run_id: str, positions: Sequence[Position]) -> list[StoredItem]:
        return self._opened().items_at(run_id, positions)

    def _first_of_last_observations(self, run_id: str, steps: Range) -> tuple[list[Position], list[StoredItem]]:
        # In one call: a single observation that is asked for cannot be thinned in between.
        positions = self._opened().last_observations(run_id, steps)
        return positions, self._items_at(run_id, positions[:_OBSERVATIONS_AT_A_TIME])

    def _go_on_deleting(self, run_id: str) -> bool:
        """Take away some of a run that is being deleted, and return whether more of it may be left."""
        if not self._opened().is_going(run_id):
            return False
        # Also where nobody could say whether the deletion was decided.
        self.live.forget(run_id)
        return self._opened().delete_more(run_id).rows > 0

    def _register(self, registration: Registration, sent_at: float) -> int:
        try:
            now = time.time()
            check_registration(registration, self._settings)
            known = self.live.get(registration.run_id)
            check_start(registration, sent_at, known, up_since=self._up_since, now=now, settings=self._settings)
            last = self._opened().register(registration, now, self._settings.max_runs)
        except LimitError as error:
            self._instruments.limit_hits.labels(error.limit).inc()
            raise
        self._instruments.registrations.inc()
        run = self.live.get(registration.run_id)
        if run is None or registration.attempt not in run.registrations:
            # It may supersede the latest observation.
            self.live.put(from_store(self._opened().run(registration.run_id)))
        return last
