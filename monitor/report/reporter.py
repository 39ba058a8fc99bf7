"""Reporter: the training process's end of the way to the service. It writes to the spool and keeps an uploader running.

This process opens no socket and never imports grpc: a DataLoader worker forked after gRPC started threads can deadlock.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from monitor.errors import ReportingError, SpoolError
from monitor.report.conversion import numeric_metrics, observation_message
from monitor.report.exit_watch import ExitWatch, reason_of
from monitor.report.locks import TRAINER_LOCK, ProcessLock
from monitor.report.spool import DEFAULT_MAX_BYTES, EXIT_NOT_DELIVERED, AttemptKey, Spool
from monitor.report.target import check_target
from monitor.report.writer import SpoolWriter
from monitor.wire import monitor_pb2 as pb

if TYPE_CHECKING:
    from monitor.observe.observation import Observation

logger = logging.getLogger(__name__)

UPLOADER_LOG = "uploader.log"

# An uploader that died is started again at once, then after pauses that double: one that cannot work must not cost the
# training a core, and one that dies now and then, over weeks, must always come back.
_FIRST_RESTART_SECONDS, _LAST_RESTART_SECONDS = 1.0, 600.0
_COMMIT_SECONDS = 10.0
_POLL_SECONDS = 0.05
_LOCK_SECONDS = 1.0
# How long the end of a run waits for the last items to be delivered; the uploader goes on with what is left.
DELIVER_SECONDS = 10.0
# And how long if the service could not be reached until now.
_DELIVER_SECONDS_WITH_PROBLEM = 0.5


class Reporter:
    """Reports one attempt of a run.

    Nothing raises or waits after construction, except `close`. A `with` block calls `finish` and `close` at its end: an
    exception that leaves it is the failure.

    Args:
        registration: what stays the same during the attempt; its `attempt` is set here, one above those in the spool.
        directory: where the spool is kept; one training process at a time.
        target: gRPC address of the service, host:port. None keeps everything in the spool, for `sparsity-monitor push`.
        max_bytes: bound on the spool; beyond it the oldest items are dropped and counted.

    Raises:
        ConfigurationError: the target is malformed.
        SpoolError: the directory cannot be written, or another training process uses it.
    """

    def __init__(
        self,
        registration: pb.Registration,
        directory: Path,
        target: str | None = None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self.directory = directory
        self._target = None if target is None else check_target(target)
        spool = Spool(directory, max_bytes)
        self._lock = _lock_directory(directory)
        registration.attempt = max(registration.attempt, spool.latest_attempt(registration.run_id) + 1)
        self.key = AttemptKey(registration.run_id, registration.attempt)
        spool.begin(self.key, registration.SerializeToString(deterministic=True))
        self._spool = spool
        self._uploader: subprocess.Popen[bytes] | None = None
        self._restart_pause = 0.0
        self._restart_at = 0.0
        self._told_problem = ""
        self._told_dropped = 0
        self._last_step = registration.resumed_from_step
        self._writer = SpoolWriter(directory, self.key, max_bytes, self._after_commit)
        self._keep_uploader()
        self._exit_watch = ExitWatch(self._process_ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish(self._last_step, failure="" if error is None else reason_of(error))
        self.close()

    def report(self, observation: Observation) -> None:
        """Hand an observation over."""
        self._last_step = observation.step
        self._writer.put(lambda: pb.Item(observation=observation_message(observation)))

    def log(self, step: int, logs: Mapping[str, object]) -> None:
        """Hand over what the trainer logged at a step; entries that are no numbers are left out."""
        metrics = numeric_metrics(logs)
        if metrics:
            message = pb.TrainingLog(step=step, logged_at=time.time(), metrics=metrics)
            self._writer.put(lambda: pb.Item(training_log=message))

    def finish(self, step: int, failure: str = "") -> None:
        """Say that the attempt is over: finished, or failed with a reason."""
        outcome = pb.Finish.OUTCOME_FAILED if failure else pb.Finish.OUTCOME_FINISHED
        message = pb.Finish(outcome=outcome, reason=failure, step=step, finished_at=time.time())
        self._writer.put(lambda: pb.Item(finish=message))

    def wait_until_registered(self, timeout: float) -> None:
        """Wait until the service accepted the run.

        Raises:
            ReportingError: it did not within `timeout` seconds, or refuses it.
        """
        deadline = time.monotonic() + timeout
        uploader = self._uploader
        while uploader is not None and time.monotonic() < deadline:
            attempt = self._spool.attempt(self.key)
            if attempt.registered:
                return
            if uploader.poll() is not None:
                break
            time.sleep(_POLL_SECONDS)
        problem = self._spool.attempt(self.key).problem or "no answer"
        raise ReportingError(
            f"the run is not registered with the service at {self._target}: {problem}. Start the service, correct the "
            "target, or leave strict=True out to train anyway and deliver later."
        )

    def _process_ends(self, reason: str) -> None:
        self.finish(self._last_step, failure=reason)
        self.close(timeout=0.0)

    def close(self, timeout: float = DELIVER_SECONDS) -> bool:
        """Write everything to the spool, give the uploader up to `timeout` seconds, and say whether all was delivered.

        The uploader goes on by itself when the time is not enough.
        """
        self._exit_watch.stop()
        try:
            return self._writer.close(_COMMIT_SECONDS) and self._wait_for_uploader(timeout)
        except (OSError, sqlite3.Error):
            logger.exception("the uploader could not be looked after; observations are kept in %s", self.directory)
            return False
        finally:
            self._close_wakeups()
            self._spool.close()
            self._lock.close()

    def _wait_for_uploader(self, timeout: float) -> bool:
        self._keep_uploader()
        if self._uploader is None:
            return False
        if self._spool.attempt(self.key).problem:
            timeout = min(timeout, _DELIVER_SECONDS_WITH_PROBLEM)
        try:
            return self._uploader.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            # It goes on by itself, as it should; Popen would complain of that when it is collected.
            self._uploader.returncode = 0
            return False

    def _close_wakeups(self) -> None:
        if self._uploader is not None and self._uploader.stdin is not None:
            self._uploader.stdin.close()

    # In the writer thread, and in the constructor before that thread can call it.

    def _after_commit(self, spool: Spool) -> None:
        self._keep_uploader()
        self._wake_uploader()
        attempt = spool.attempt(self.key)
        self._tell_problem(attempt.problem)
        self._tell_dropped(attempt.dropped)

    def _wake_uploader(self) -> None:
        if self._uploader is None or self._uploader.stdin is None:
            return
        try:
            # Does nothing when the pipe is full of wake-ups already.
            self._uploader.stdin.write(b"\0")
        except BrokenPipeError:
            logger.info("the uploader ended; the next commit starts it again if it is needed")

    def _tell_problem(self, problem: str) -> None:
        # Not its details: gRPC names another address of the same host at each try.
        kind = problem.partition(": ")[0]
        if kind != self._told_problem:
            self._told_problem = kind
            if problem:
                logger.warning(
                    "sparsity-monitor: %s. Training goes on; observations are kept in %s.", problem, self.directory
                )
            else:
                logger.info("sparsity-monitor: connected to %s", self._target)

    def _tell_dropped(self, dropped: int) -> None:
        # The first time, and when there are twice as many.
        if dropped >= max(1, 2 * self._told_dropped):
            self._told_dropped = dropped
            logger.warning(
                "sparsity-monitor: %d items of this run are lost so far: the spool in %s is full, its disk too slow, "
                "or the service refused them. Make the service reachable, or keep more with `spool_max_bytes`.",
                dropped,
                self.directory,
            )

    def _keep_uploader(self) -> None:
        if self._target is None or time.monotonic() < self._restart_at:
            return
        status = None if self._uploader is None else self._uploader.poll()
        if self._uploader is not None and status in (None, 0, EXIT_NOT_DELIVERED):
            return
        if status is not None:
            log = self.directory / UPLOADER_LOG
            logger.warning("sparsity-monitor: the uploader died (status %d, see %s); starting it again", status, log)
        self._restart_at = time.monotonic() + self._restart_pause
        self._restart_pause = min(max(2 * self._restart_pause, _FIRST_RESTART_SECONDS), _LAST_RESTART_SECONDS)
        self._close_wakeups()
        self._uploader = _start_uploader(self.directory, self._target, self.key)


def _lock_directory(directory: Path) -> ProcessLock:
    lock = ProcessLock(directory / TRAINER_LOCK)
    deadline = time.monotonic() + _LOCK_SECONDS
    while not (free := lock.acquire()) and time.monotonic() < deadline:
        # An uploader that is left from before takes it for a moment, to see whether anybody has it.
        time.sleep(_POLL_SECONDS)
    if not free:
        lock.close()
        raise SpoolError(
            f"another training process reports from {str(directory)!r}. Give each run its own output directory, or end "
            "the other process."
        )
    return lock


def _start_uploader(directory: Path, target: str, key: AttemptKey) -> subprocess.Popen[bytes]:
    # -P and PYTHONPATH: the same package as here, whatever lies in the working directory.
    package_root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    # After "--", since a user's run id may start with a hyphen.
    arguments = ["--", str(directory), target, str(os.getpid()), key.run_id, str(key.attempt)]
    with (directory / UPLOADER_LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "monitor.report.uploader", *arguments],
            stdin=subprocess.PIPE,
            bufsize=0,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": path},
            # A session of its own: Ctrl-C in the terminal ends the training, not the delivery.
            start_new_session=True,
        )
    if process.stdin is not None:
        os.set_blocking(process.stdin.fileno(), False)
    return process
