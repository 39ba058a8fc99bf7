"""Try after try to deliver the attempts in a spool directory: at which address, after which pause, and until when."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from pathlib import Path

import grpc

from monitor.errors import ConfigurationError, DamagedSpoolError, SpoolError
from monitor.report.log.seldom import Seldom
from monitor.report.processes.locks import UPLOADER_LOCK, ProcessLock, TrainerWatch
from monitor.report.spool.attempt import AttemptKey, SpooledAttempt
from monitor.report.spool.items import Spool
from monitor.report.spool.on_the_way import OnTheWay, remove_records
from monitor.report.uploader.delivery import Delivery
from monitor.report.uploader.failures import Failure, Lasts, failure_of
from monitor.report.uploader.in_turn import InTurn
from monitor.wire.credentials import call_metadata
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub

logger = logging.getLogger(__name__)

# How long an uploader goes on trying after its training is over, or after the service took something last.
LINGER_SECONDS = 600.0

# Bounds on the pauses, each of which is chosen at random up to its bound: many runs lose one service at once, and must
# not come back to it at once.
_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.5, 15.0
# How often it looks whether the lock is free.
_LOCK_SECONDS = 0.25
# How often it checks, between tries, whether another uploader waits for its lock.
_LOOK_SECONDS = 1.0
# Of a connection that took something until it broke, and then there was no time for the next one.
_NO_TIME = "the connection broke, and there was no time to try again"
_CHANNEL_OPTIONS = (
    # What a channel knows, and when it is to dial again, is not left to the next one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
# While the service does not take the token: it writes a line for each try, and a new token comes from a person.
_NO_ACCESS_BACKOFF_SECONDS = 60.0


class Uploader:
    """Delivers the attempts in a spool directory, the oldest first, the one that is training until it ends.

    Args:
        directory: the spool's.
        target: gRPC address of the service; of several that take over from each other, all, between commas.
        linger_seconds: how long to go on trying when the service cannot be reached and the training is over, also where
            its process lives on.
        follow: wait for what a live training process has yet to observe.
        parent: the training process, if it started this one.
        last: its attempt, the last one to deliver. A later one has an uploader of its own, with a target of its own,
            which waits for this one to end; so this one does not wait for a service any more once that has begun.
            None delivers all.
        signals: what notes the signal that kills the training process, see `killed_by`.
    """

    def __init__(
        self,
        directory: Path,
        target: str,
        linger_seconds: float = LINGER_SECONDS,
        *,
        follow: bool = True,
        parent: int | None = None,
        last: AttemptKey | None = None,
        signals: Mapping[str, int] | None = None,
    ) -> None:
        self._directory = directory
        self._services = InTurn(target, _CHANNEL_OPTIONS)
        self._linger_seconds = linger_seconds
        self._follow = follow
        self._parent = parent
        self._last = last
        self._signals = signals or {}
        self._delivered: set[AttemptKey] = set()
        self._refused: set[AttemptKey] = set()
        self._on_the_way: dict[AttemptKey, OnTheWay] = {}
        self._is_over = False
        self._wakeup = asyncio.Event()
        self._spool_problem = ""
        self._warn_of_spool = Seldom(logger.warning)
        self._tell_of_refusal = Seldom(logger.error)
        self._warn_of_service: defaultdict[str, Seldom] = defaultdict(lambda: Seldom(logger.warning))

    def wake_on(self, descriptor: int) -> None:
        """Look for new items whenever something can be read from `descriptor`, until its other end closes."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            if not os.read(descriptor, 65536):
                loop.remove_reader(descriptor)
            self._wakeup.set()

        loop.add_reader(descriptor, read)

    async def run(self) -> list[str]:
        """Deliver, and return the problems of what could not be delivered; empty if all was.

        Another uploader of the same directory is waited for: it ends soon after a later attempt began.
        """
        watch = TrainerWatch(self._directory, self._parent, self._signals)
        with closing(ProcessLock(self._directory / UPLOADER_LOCK)) as lock:
            if not await self._has_acquired(lock, watch):
                return [
                    f"the uploader of {self._directory} that began before this one{lock.holder()} does not end; it may "
                    "be stopped, or wait for its disk. Kill it: what it has not delivered stays"
                ]
            lock.sign()
            # No bound: only the training process drops items; recording its end here must not.
            with closing(Spool(self._directory, max_bytes=None)) as spool:
                await self._deliver_all(spool, watch)
                return [
                    f"{a.key.run_id} attempt {a.key.attempt}: {a.problem or self._spool_problem or _NO_TIME}"
                    for a in self._waiting(spool)
                ]

    async def _has_acquired(self, lock: ProcessLock, watch: TrainerWatch) -> bool:
        """Wait for the uploader that has the lock, but after the training's end no longer than for a service."""
        give_up_at = time.monotonic() + self._linger_seconds
        while not lock.acquire():
            if watch.is_alive():
                give_up_at = time.monotonic() + self._linger_seconds
            if time.monotonic() >= give_up_at:
                return False
            await asyncio.sleep(_LOCK_SECONDS)
        return True

    def _waiting(self, spool: Spool) -> list[SpooledAttempt]:
        """Return the attempts of which something is yet to be delivered."""
        attempts = spool.attempts()
        if self._last is not None:
            attempts = attempts[: 1 + [attempt.key for attempt in attempts].index(self._last)]
        return [a for a in attempts if a.key not in self._delivered and (a.unsent or not a.finished)]

    async def _deliver_all(self, spool: Spool, watch: TrainerWatch) -> None:
        backoff, give_up_at = _FIRST_BACKOFF_SECONDS, time.monotonic() + self._linger_seconds
        while True:
            progressed, tried_all = False, True
            try:
                waiting = [attempt.key for attempt in self._waiting(spool) if attempt.key not in self._refused]
                if not waiting:
                    return
                key = waiting[0]
                sent = self._sent_of(spool, key)
                delivery = Delivery(
                    spool, key, watch, self._wakeup, sent, follow=self._follow, tell=self._tell_of_refusal
                )
                if await self._is_done(delivery, spool, key):
                    self._services.begin_again()
                    sent.close()
                    remove_records(self._directory, spool.records())
                    continue
                progressed = delivery.progressed
                if tried_all := self._services.go_on():
                    spool.set_problem(key, self._services.problem)
            except DamagedSpoolError:
                # The training process sets it aside; nobody mends it.
                raise
            except SpoolError as error:
                # A full disk, or a file system that is away: both are transient.
                self._spool_problem = str(error)
                self._warn_of_spool("trying again: %s", error)
            if progressed or self._trains(spool, watch):
                give_up_at = time.monotonic() + self._linger_seconds
            if progressed:
                backoff = _FIRST_BACKOFF_SECONDS
            pause = random.uniform(0, backoff)
            if (tried_all and self._has_given_up(give_up_at)) or await self._is_succeeded_within(pause, spool):
                return
            if tried_all:
                has_access = not self._services.all_fail([Lasts.WITHOUT_ACCESS])
                longest = _LAST_BACKOFF_SECONDS if has_access else _NO_ACCESS_BACKOFF_SECONDS
                backoff = min(2 * backoff, longest)

    def _trains(self, spool: Spool, watch: TrainerWatch) -> bool:
        """Return whether the training goes on. A notebook, or a search over trials, outlives its trainings."""
        if not self._follow or self._is_over or not watch.is_alive():
            return False
        with suppress(SpoolError):
            self._is_over = self._last is not None and spool.attempt(self._last).finished
        return not self._is_over

    def _has_given_up(self, at: float) -> bool:
        return time.monotonic() >= at

    def _sent_of(self, spool: Spool, key: AttemptKey) -> OnTheWay:
        """Return what was sent of an attempt, by this uploader or by one before it that was killed."""
        if key not in self._on_the_way:
            self._on_the_way[key] = OnTheWay(self._directory, spool.sent_before(key))
        return self._on_the_way[key]

    async def _is_done(self, delivery: Delivery, spool: Spool, key: AttemptKey) -> bool:
        """Try to deliver an attempt, and return whether it is settled: delivered, or refused for good."""
        target = self._services.target
        try:
            metadata = call_metadata(target)
            # Anew for each try: a channel goes on with the certificates that it was opened with, also expired ones, and
            # pauses by itself between connections, for up to two minutes, in which each try fails without one.
            async with self._services.channel() as channel:
                await delivery.run(MonitorServiceStub(channel), metadata)
        except (grpc.aio.AioRpcError, ConnectionResetError, TimeoutError, ConfigurationError) as error:
            failure = failure_of(target, error)
            self._warn_of_service[failure.kind]("%s attempt %d: %s", key.run_id, key.attempt, failure.text)
            self._services.fail(failure, progressed=delivery.progressed)
            is_done = self._is_in_vain(failure, spool, key)
        else:
            self._services.take()
            self._delivered.add(key)
            spool.forget_sent(key)
            is_done = True
        self._note_refusals(spool)
        return is_done

    def _is_in_vain(self, failure: Failure, spool: Spool, key: AttemptKey) -> bool:
        """Return whether no address of the target will take the attempt, which is noted in the spool then."""
        if failure.lasts is Lasts.WITH_RUN:
            problem, is_refused = failure.text, True
        elif self._services.all_fail(self._final):
            problem, is_refused = self._services.problem, self._services.all_fail([Lasts.AT_ADDRESS])
        else:
            return False
        spool.set_problem(key, problem, refused=is_refused)
        self._refused.add(key)
        return True

    @property
    def _final(self) -> Collection[Lasts]:
        # Whoever waits for `push` is told at once.
        return [Lasts.AT_ADDRESS] if self._follow else [Lasts.AT_ADDRESS, Lasts.WITHOUT_ACCESS]

    def _note_refusals(self, spool: Spool) -> None:
        if spool.refusing() != self._services.refusals:
            spool.set_refusing(self._services.refusals)

    async def _is_succeeded_within(self, seconds: float, spool: Spool) -> bool:
        """Wait, unless a later attempt has begun, whose uploader waits for this one; return whether one has."""
        until = time.monotonic() + seconds
        while self._last is not None:
            with suppress(SpoolError):
                if spool.newest() != self._last:
                    return True
            if (left := until - time.monotonic()) <= 0:
                return False
            await asyncio.sleep(min(left, _LOOK_SECONDS))
        await asyncio.sleep(seconds)
        return False
