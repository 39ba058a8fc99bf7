"""`sparsity-monitor push`: deliver, later or from elsewhere, what a spool still holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from monitor.errors import DamagedSpoolError, ReportingError, SpoolError
from monitor.report.log.uploader import UPLOADER_LOG
from monitor.report.processes.locks import UPLOADER_LOCK, ProcessLock
from monitor.report.spool.items import Spool
from monitor.report.spool.places import find_spool, linked_spools
from monitor.report.target import check_target
from monitor.report.uploader.renaming import give_run_id
from monitor.report.uploader.tries import Uploader

_TELLING_SECONDS = 1.0
_OF_DAMAGED = (
    "Nothing of it is delivered: whether its numbers are still right cannot be told. The next training in the "
    "directory sets the file aside and begins a new one."
)

Tell = Callable[[int], None]
"""Called with how many items are left."""


def push(
    directory: Path, target: str, patience_seconds: float, run_id: str | None = None, tell: Tell | None = None
) -> int:
    """Deliver everything in the spool of a run, and return how many items that were. Those refused for good are logged.

    Args:
        directory: the run's output directory, or the spool's own.
        target: gRPC address of the service; see check_target.
        patience_seconds: how long to try to reach the service.
        run_id: of a run of its own, which becomes of what the service never accepted; see `give_run_id`.
        tell: called at first, and now and then while it takes its time.

    Raises:
        ConfigurationError: the target is malformed, or the run id is none.
        SpoolError: there is no spool, or it is being delivered by another process.
        ReportingError: the service cannot be reached or refuses; what is not delivered stays in the spool.
    """
    target = check_target(target)
    spool_directory = find_spool(directory)
    # First where the run went on when its directory broke: its end is told from there.
    return sum(
        _push(each, target, patience_seconds, run_id, tell or _tell_nobody)
        for each in (*linked_spools(spool_directory), spool_directory)
    )


def _tell_nobody(_left: int) -> None:
    """Where nobody watches."""


def _push(directory: Path, target: str, patience_seconds: float, run_id: str | None, tell: Tell) -> int:
    _check_free(directory)
    _check_sound(directory)
    if run_id is not None:
        give_run_id(directory, run_id)
    before = _held(directory)
    tell(before)
    problems = asyncio.run(_deliver(directory, target, patience_seconds, tell))
    if problems:
        raise ReportingError("not everything was delivered; it stays in the spool. " + "; ".join(problems))
    return before - _held(directory)


def _check_free(directory: Path) -> None:
    try:
        with closing(ProcessLock(directory / UPLOADER_LOCK)) as lock:
            free, holder = lock.acquire(), lock.holder()
    except OSError as error:
        raise SpoolError(
            f"cannot deliver from {str(directory)!r}: {error}. What the service has is removed from there, which "
            "has to be possible: copy the directory to a disk that can be written, and give the copy."
        ) from error
    if not free:
        raise SpoolError(
            f"the uploader of the run in {str(directory)!r} is still at work{holder}; its log is {UPLOADER_LOG} there. "
            "Wait until it ends, or end it: what it has not delivered stays."
        )


def _check_sound(directory: Path) -> None:
    try:
        with closing(Spool(directory)) as spool:
            spool.check_sound()
    except DamagedSpoolError as error:
        raise DamagedSpoolError(f"{error} {_OF_DAMAGED}") from error


def _held(directory: Path) -> int:
    """Return how many items are still here: unsent, or set aside because the service refused them."""
    with closing(Spool(directory)) as spool:
        return sum(attempt.unsent + attempt.rejected for attempt in spool.attempts())


async def _deliver(directory: Path, target: str, patience_seconds: float, tell: Tell) -> list[str]:
    delivery = asyncio.create_task(Uploader(directory, target, patience_seconds, follow=False).run())
    while not (await asyncio.wait([delivery], timeout=_TELLING_SECONDS))[0]:
        # A file system that is away has nothing to tell; the delivery says so itself.
        with suppress(SpoolError):
            tell(await asyncio.to_thread(_held, directory))
    return delivery.result()
