"""The uploader: a process of its own that carries the spool's items to the service and removes what it acknowledged.

It outlives the training process, so that what was observed arrives even when that one is killed. Started as
`python -m monitor.report.uploader`; `sparsity-monitor push` runs the same code.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from pathlib import Path

import grpc

from monitor.report.delivery import Delivery
from monitor.report.locks import UPLOADER_LOCK, ProcessLock, TrainerWatch
from monitor.report.spool import EXIT_NOT_DELIVERED, AttemptKey, Spool
from monitor.wire import monitor_pb2_grpc

logger = logging.getLogger(__name__)

# How long an uploader goes on trying after its training process is gone.
LINGER_SECONDS = 600.0

_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.5, 15.0
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Reconnect soon after the service came back, rather than after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 10_000),
)
# What trying again cannot mend. Everything else is the network's or the service's passing trouble.
_PERMANENT = frozenset(
    {
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class Uploader:
    """Delivers every attempt in a spool directory, the oldest first, the one that is training until it ends.

    Args:
        directory: the spool's.
        target: gRPC address of the service, host:port.
        linger_seconds: how long to go on trying when the service cannot be reached and no training process is alive.
        follow: wait for what a live training process has yet to observe.
        parent: the training process, if it started this one.
    """

    def __init__(
        self,
        directory: Path,
        target: str,
        linger_seconds: float = LINGER_SECONDS,
        *,
        follow: bool = True,
        parent: int | None = None,
    ) -> None:
        self._directory = directory
        self._target = target
        self._linger_seconds = linger_seconds
        self._follow = follow
        self._parent = parent
        self._wakeup = asyncio.Event()

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

        Another uploader of the same directory is waited for: it ends soon after a newer attempt appears.
        """
        lock = ProcessLock(self._directory / UPLOADER_LOCK)
        await asyncio.to_thread(lock.wait)
        spool = Spool(self._directory)
        try:
            async with grpc.aio.insecure_channel(self._target, options=_CHANNEL_OPTIONS) as channel:
                await self._deliver_all(spool, monitor_pb2_grpc.MonitorServiceStub(channel))
            return [f"{a.key.run_id} attempt {a.key.attempt}: {a.problem}" for a in spool.attempts() if a.problem]
        finally:
            spool.close()
            lock.close()

    async def _deliver_all(self, spool: Spool, stub: monitor_pb2_grpc.MonitorServiceStub) -> None:
        watch = TrainerWatch(self._directory, self._parent)
        backoff, give_up_at = _FIRST_BACKOFF_SECONDS, time.monotonic() + self._linger_seconds
        done: set[AttemptKey] = set()
        while waiting := [a for a in spool.attempts() if a.key not in done and (a.unsent or not a.finished)]:
            key = waiting[0].key
            delivery = Delivery(spool, key, watch, self._wakeup, follow=self._follow)
            try:
                await delivery.run(stub)
                done.add(key)
                continue
            except (grpc.aio.AioRpcError, ConnectionResetError) as error:
                spool.set_problem(key, self._describe(error))
                logger.warning("%s attempt %d: %s", key.run_id, key.attempt, self._describe(error))
                if isinstance(error, grpc.aio.AioRpcError) and error.code() in _PERMANENT:
                    done.add(key)
                    continue
            if delivery.connected or watch.is_alive():
                give_up_at = time.monotonic() + self._linger_seconds
            if delivery.connected:
                backoff = _FIRST_BACKOFF_SECONDS
            if time.monotonic() >= give_up_at:
                return
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LAST_BACKOFF_SECONDS)

    def _describe(self, error: grpc.aio.AioRpcError | ConnectionResetError) -> str:
        if isinstance(error, ConnectionResetError):
            return f"the service at {self._target} closed the connection"
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return f"cannot reach the service at {self._target}: {error.details()}"
        return f"the service at {self._target} answers {error.code().name}: {error.details()}"


async def _run(directory: Path, target: str, linger_seconds: float, parent: int) -> list[str]:
    uploader = Uploader(directory, target, linger_seconds, parent=parent)
    uploader.wake_on(sys.stdin.fileno())
    return await uploader.run()


def main() -> int:
    """Deliver what the training process at the other end of standard input observes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("target")
    parser.add_argument("parent", type=int, help="process id of the training")
    parser.add_argument("--linger-seconds", type=float, default=LINGER_SECONDS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    problems = asyncio.run(_run(arguments.directory, arguments.target, arguments.linger_seconds, arguments.parent))
    for problem in problems:
        logger.error("not delivered, kept in %s: %s", arguments.directory, problem)
    return EXIT_NOT_DELIVERED if problems else 0


if __name__ == "__main__":
    sys.exit(main())
