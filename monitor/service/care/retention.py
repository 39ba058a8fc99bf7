"""Keeps the store within what the settings retain: thins and deletes runs that have ended, the longest silent first.

In the background, in small transactions between those of the runs, and never a run that is under way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from monitor.service.background import in_background
from monitor.service.care.clock import ClockWatch, since_boot
from monitor.service.care.sizes import RunSizes
from monitor.service.errors import StandingByError, StoreError
from monitor.service.live.runs import LiveRun, from_store
from monitor.service.metrics.instruments import Instruments
from monitor.service.quantities.run_state import RunState
from monitor.service.recording.recorder import Recorder
from monitor.service.settings import ServiceSettings
from monitor.service.storage.queries.deletion import Removed
from monitor.service.storage.queries.thinning import Progress, Thinning
from monitor.service.storage.store import Store
from monitor.service.times import when

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEPT_OBSERVATIONS = 1000
"""Of a run that is thinned: more than a chart has points."""

_EVERY_SECONDS = 60.0
_DAY = 24 * 3600.0
# After a start, or when the clock was set, senders of runs that seem lost get so long to be heard of.
_RETURN_SECONDS = 3600.0
_CLOCK_MAY_MOVE_SECONDS = 600.0


class Retention:
    """Applies the settings, for as long as the service runs."""

    def __init__(
        self, settings: ServiceSettings, recorder: Recorder, instruments: Instruments, clock: ClockWatch | None = None
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._instruments = instruments
        self._clock = clock or ClockWatch()
        self._sizes = RunSizes(self._measure)
        self._lost_are_gone_at = since_boot() + _RETURN_SECONDS
        self._nothing_before = 0.0
        self._said_full = False
        self._uncertain: set[str] = set()
        # How many observations a run had left when it was last thinned.
        self._left: dict[str, int] = {}

    def running(self) -> AbstractAsyncContextManager[None]:
        """Sweep from time to time while the context is open."""
        return in_background(
            self._run,
            "keeping the store within what it is to retain",
            meanwhile="nothing is removed from it, and it grows",
            count_failure=self._instruments.background_errors.labels("retention").inc,
        )

    async def sweep(self) -> None:
        """Remove what is to go now.

        Raises:
            StoreError: the store failed. What has gone has gone as a whole, or goes on with the next sweep.
        """
        await self._recorder.care(self._settle)
        for run_id in await self._recorder.care(lambda store: store.deletions()):
            await self._delete_rest(run_id)
            logger.info("deleted the rest of run %s", run_id)
        if self._clock_was_set():
            return
        for run in self._older_than(self._settings.retain_days, self._may_go):
            await self._delete(run, "age", f"nothing was heard of it for {self._settings.retain_days:g} days")
        for run in self._older_than(self._settings.thin_after_days, self._may_be_thinned):
            await self._thin(run)
        if self._settings.retain_gigabytes is not None:
            await self._make_room(int(self._settings.retain_gigabytes * 1e9))
        while await self._gently(lambda store: store.give_back()):
            pass

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except StandingByError:
                # Whoever has the store removes what is to go.
                pass
            except StoreError as error:
                logger.warning("nothing is removed for now, and it is tried again in %g s: %s", _EVERY_SECONDS, error)
            await asyncio.sleep(_EVERY_SECONDS)

    async def _make_room(self, most: int) -> None:
        # Each time anew: runs end and begin meanwhile.
        while await self._used_bytes() > most:
            if thinnable := self._longest_silent(self._may_be_thinned):
                await self._thin(thinnable[0])
            elif deletable := self._longest_silent(self._may_go):
                bound = f"the store holds more than {self._settings.retain_gigabytes:g} gigabytes"
                await self._delete(deletable[0], "size", bound)
            else:
                if not self._said_full:
                    logger.warning(
                        "the store holds more than the %g gigabytes that it is to retain, and what is left in it is of "
                        "runs that are or may be under way: give it more with --retain-gigabytes, or bound the runs",
                        self._settings.retain_gigabytes,
                    )
                self._said_full = True
                return
        self._said_full = False

    async def _used_bytes(self) -> int:
        used = await self._recorder.care(lambda store: store.used_bytes())
        return await self._sizes.total(self._recorder.live.all()) if used is None else used

    async def _measure(self, run_id: str) -> int:
        return await self._gently(lambda store: store.bytes_of(run_id))

    def _older_than(self, days: float | None, may: Callable[[LiveRun], bool]) -> list[LiveRun]:
        if days is None:
            return []
        return [run for run in self._longest_silent(may) if run.heard_at < time.time() - days * _DAY]

    def _longest_silent(self, may: Callable[[LiveRun], bool]) -> list[LiveRun]:
        return sorted(filter(may, self._recorder.live.all()), key=lambda run: (run.heard_at, run.run_id))

    def _may_go(self, run: LiveRun) -> bool:
        state = run.state(time.time(), self._settings)
        if state is RunState.LOST:
            return since_boot() >= self._lost_are_gone_at
        return state not in (RunState.RUNNING, RunState.STALLED)

    def _may_be_thinned(self, run: LiveRun) -> bool:
        # One that was lost may go on, and its pauses are measured from what is stored.
        thinned = run.observations <= max(KEPT_OBSERVATIONS, self._left.get(run.run_id, 0))
        return run.finish is not None and not thinned

    def _clock_was_set(self) -> bool:
        moved = self._clock.moved()
        if abs(moved) > _CLOCK_MAY_MOVE_SECONDS:
            self._nothing_before = since_boot() + _RETURN_SECONDS
            logger.warning(
                "the clock of this machine was set by %+.0f seconds. Nothing is removed by its age or size for an "
                "hour: check the clock until then, or stop the service",
                moved,
            )
        return since_boot() < self._nothing_before

    def _settle(self, store: Store) -> None:
        """Bring the live state up to date with what a failure left open."""
        live = self._recorder.live
        for run_id in store.deletions():
            live.forget(run_id)
        for run_id in list(self._uncertain):
            if live.get(run_id) is not None:
                live.put(from_store(store.run(run_id)))
            self._uncertain.remove(run_id)

    async def _delete(self, run: LiveRun, why: str, because: str) -> None:
        def begin(store: Store) -> bool:
            present = self._recorder.live.get(run.run_id)
            # A run is another object with each sign of life.
            if present is not run or not self._may_go(run):
                return False
            store.delete(run.run_id, time.time())
            self._recorder.live.forget(run.run_id)
            return True

        if not await self._recorder.care(begin):
            return
        self._instruments.runs_deleted.labels(why).inc()
        items = await self._delete_rest(run.run_id)
        self._instruments.items_removed.labels(why).inc(items)
        logger.info(
            "deleted run %s with its %d items, last heard of at %s: %s", run.run_id, items, when(run.heard_at), because
        )

    async def _delete_rest(self, run_id: str) -> int:
        items = 0
        while True:
            removed: Removed = await self._gently(lambda store: store.delete_more(run_id))
            items += removed.items
            if not removed.rows:
                return items

    async def _thin(self, run: LiveRun) -> None:
        plan: Thinning = await self._recorder.care(
            lambda store: store.thinning(run.run_id, run.observations, KEPT_OBSERVATIONS)
        )
        progress, removed = Progress(), 0
        while progress.after is not None:

            def more(store: Store, before: Progress = progress) -> Progress:
                present = self._has_ended_still(run)
                if present is None:
                    return before._replace(after=None, removed=0, superseded=0)
                try:
                    progress = store.thin_more(plan, before)
                except StoreError:
                    # It may be done after all, and is counted anew.
                    self._uncertain.add(run.run_id)
                    raise
                self._recorder.live.thinned(run.run_id, progress.removed, progress.thinned or present.thinned)
                return progress

            progress = await self._gently(more)
            removed += progress.removed + progress.superseded
            self._instruments.items_removed.labels("thinned").inc(progress.removed + progress.superseded)
        if present := self._has_ended_still(run):
            self._left[run.run_id] = present.observations
        logger.info(
            "thinned run %s, last heard of at %s: %d of its observations were removed, 1 in %d stays%s",
            run.run_id,
            when(run.heard_at),
            removed,
            plan.every,
            "" if present else ". The run goes on: the others stay as well",
        )

    def _has_ended_still(self, run: LiveRun) -> LiveRun | None:
        """Return a run that had ended as it is now, None if it went on, or is gone."""
        present = self._recorder.live.get(run.run_id)
        goes_on = present is None or present.finish is None or present.registration != run.registration
        return None if goes_on else present

    async def _gently(self, call: Callable[[Store], T]) -> T:
        """Leave the store to others for as long as this took."""
        began = time.monotonic()
        result = await self._recorder.care(call)
        await asyncio.sleep(time.monotonic() - began)
        return result
