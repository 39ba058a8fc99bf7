"""Reporter: the training process's end of the way to the service. It writes to the spool and keeps an uploader running.

This process opens no socket and never imports grpc: a DataLoader worker forked after gRPC started threads can deadlock.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from monitor.errors import ConfigurationError, ReportingError, SpoolError, SpoolInUseError, shown
from monitor.report.log.delivery import undelivered
from monitor.report.log.shell import push_command, quoted
from monitor.report.log.shell import shown as shown_path
from monitor.report.log.uploader import UPLOADER_LOG
from monitor.report.messages.conversion import observation_message, training_log_message
from monitor.report.messages.ending import COMPLETED, Ending, failed, reason_of
from monitor.report.messages.fitting import fit
from monitor.report.messages.trainer_log import TrainerLog
from monitor.report.processes.exit_watch import ExitWatch
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.items import DEFAULT_MAX_BYTES, Spool
from monitor.report.spool.places import Elsewhere
from monitor.report.target import check_target
from monitor.report.writer.damage import sound_spool
from monitor.report.writer.home import Reported, lock_directory
from monitor.report.writer.thread import SpoolWriter
from monitor.wire import monitor_pb2 as pb

if TYPE_CHECKING:
    from monitor.observe.observation import Observation
    from monitor.verdict import Verdict

logger = logging.getLogger(__name__)

_COMMIT_SECONDS = 10.0
_POLL_SECONDS = 0.05
# What to do where a run cannot be registered; and where it is refused for good.
_BEFORE_TRAINING = {
    False: "Start the service, correct the target, or leave strict=True out to train anyway and deliver later.",
    True: "Change that before you train: without strict=True the training would run, and be refused all the same.",
}
# How long the end of a run waits for the delivery of the last items; the uploader goes on with the rest.
DELIVER_SECONDS = 10.0


class Reporter:
    """Reports one attempt of a run.

    Of several processes that train together, the first makes one, and reports for all: `observer.is_first` tells.
    Nothing raises or waits after construction, except `close`. A `with` block calls `finish` and `close` at its end: an
    exception that leaves it is the failure.

    Args:
        registration: what stays the same during the attempt; its `attempt` is set here, one above those in the spool,
            and texts for people are shortened to what a service takes.
        directory: where the spool is kept; one training process at a time.
        target: gRPC address of the service, host:port. None keeps everything in the spool, for `sparsity-monitor push`.
        max_bytes: bound on the spool; beyond it the items in it are thinned out, and those left out are counted.
        elsewhere: where to go on if the directory breaks and does not come back; by default temporary folders.

    Raises:
        ConfigurationError: the target is malformed, or the registration is one that services refuse.
        SpoolError: the directory cannot be written.
        SpoolInUseError: another training process uses it.
    """

    def __init__(
        self,
        registration: pb.Registration,
        directory: str | Path,
        target: str | None = None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        _check_arguments(registration, directory, max_bytes)
        self._target = None if target is None else check_target(target)
        fit(registration)
        self._trainer_log = TrainerLog()
        # A later `chdir` of the training must not lead elsewhere.
        directory = Path(directory).absolute()
        lock = lock_directory(directory)
        try:
            self.key = _begin(registration, directory, max_bytes)
        except BaseException:
            lock.close()
            raise
        self._last_step = registration.resumed_from_step
        self._groups = tuple(registration.groups)
        self._base_squared_norm = tuple(registration.base_squared_norm)
        self.elsewhere = elsewhere or Elsewhere()
        reported = Reported(self.key, registration.SerializeToString(deterministic=True), max_bytes, self._target)
        self._writer = SpoolWriter(reported, directory, lock, self.elsewhere)
        self._process = os.getpid()
        # Not a plain lock: what handles a signal may come in between, in the same thread.
        self._ending = threading.RLock()
        self._has_finished = self._is_closed = self._is_delivered = False
        self._exit_watch = ExitWatch(self.fail)

    @property
    def directory(self) -> Path:
        """Where the spool is: the given directory, or a temporary folder where that broke and did not come back."""
        return self._writer.directory

    @property
    def uploader_pid(self) -> int | None:
        """Process id of the uploader; None before it is started, and without a target."""
        return self._writer.uploader_pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish(self._last_step, failure="" if error is None else reason_of(error))
        self.close()

    def report(self, observation: Observation, verdict: Verdict | None = None) -> None:
        """Hand an observation over, and what it means with those before it."""
        if not hasattr(observation, "step"):
            raise ConfigurationError(
                f"report() was given {shown(observation)}; expected one Observation, as `observe(step)` returns it."
            )
        self._last_step = observation.step
        groups, norm = self._groups, self._base_squared_norm
        self._writer.put(lambda: pb.Item(observation=observation_message(observation, groups, norm, verdict)))

    def log(self, step: int, logs: Mapping[str, object]) -> None:
        """Hand over what the trainer logged at a step.

        Taken is what holds one number, also in a tensor on any device, which is not waited for.
        """
        if not isinstance(logs, Mapping):
            raise ConfigurationError(f"log() was given {shown(logs)}; expected {{name: number}}.")
        logged_at, metrics = time.time(), self._trainer_log.choose(logs)
        if metrics:
            self._writer.put(lambda: pb.Item(training_log=training_log_message(step, logged_at, metrics)))

    def finish(self, step: int, failure: str = "", *, ending: Ending = COMPLETED) -> None:
        """Report the end of the attempt, unless it was reported before. A forked child reports nothing.

        Args:
            step: the last one.
            failure: why it failed.
            ending: how it ended, unless it failed.
        """
        if os.getpid() != self._process:
            return
        with self._ending:
            is_first, self._has_finished = not self._has_finished, True
        if is_first:
            message = (failed(failure) if failure else ending).message(step)
            self._writer.put(lambda: pb.Item(finish=message))

    def wait_until_registered(self, timeout: float) -> None:
        """Wait until the service accepted the run.

        Raises:
            ReportingError: it did not within `timeout` seconds, or refuses it.
            SpoolError: the spool cannot be read.
        """
        deadline = time.monotonic() + timeout
        with closing(Spool(self.directory)) as spool:
            while self._may_register_before(deadline) and not spool.attempt(self.key).registered:
                time.sleep(_POLL_SECONDS)
            attempt = spool.attempt(self.key)
        if not attempt.registered:
            raise ReportingError(
                f"the run is not registered with the service at {self._target}: "
                f"{attempt.problem.rstrip('.') or 'no answer'}. {_BEFORE_TRAINING[attempt.refused]}"
            )

    def _may_register_before(self, deadline: float) -> bool:
        return self._target is not None and not self._writer.uploader_has_ended() and time.monotonic() < deadline

    def fail(self, reason: str) -> None:
        """Report that the attempt failed after the last step that was observed, and close without waiting."""
        self.finish(self._last_step, failure=reason)
        self.close(timeout=0.0)

    def close(self, timeout: float = DELIVER_SECONDS) -> bool:
        """Write everything to the spool, and return whether the uploader delivered it within `timeout` seconds.

        The uploader goes on by itself when the time is not enough. Closed once is closed.
        """
        if os.getpid() != self._process:
            return False
        # Whoever comes second waits: the process may end when this returns.
        with self._ending:
            if not self._is_closed:
                self._is_closed = True
                self._close(timeout)
        return self._is_delivered

    def _close(self, timeout: float) -> None:
        try:
            self._is_delivered = self._writer.close(_COMMIT_SECONDS, timeout)
        finally:
            # Not before: where another thread closes, the process must not end until the last item is committed.
            self._exit_watch.stop()
            self.elsewhere.clear()

    @property
    def broke_off(self) -> str:
        """The error with which reporting broke off before its end; empty where it did not."""
        return self._writer.broke_off

    def why_undelivered(self) -> str:
        """Return why not everything is with the service, and what to do about it, after `close` said so."""
        if self.broke_off:
            return (
                f"reporting broke off because of an error ({self.broke_off}), and nothing that came after it is kept "
                f"or delivered. For what was kept before: {push_command(self.directory, self._target)}"
            )
        if self._target is None:
            return f"there is no target; deliver with: sparsity-monitor push {quoted(self.directory)}"
        if self._writer.uploader_has_died():
            return (
                f"the uploader died, see {shown_path(self.directory / UPLOADER_LOG)}. The observations are kept in "
                f"{shown_path(self.directory)}; deliver with: {push_command(self.directory, self._target)}"
            )
        try:
            with closing(Spool(self.directory)) as spool:
                return undelivered(spool.attempt(self.key), self.directory, self._target)
        except SpoolError as error:
            return str(error).rstrip(".")


def start_anywhere(
    registration: pb.Registration, directory: Path, target: str | None, *, max_bytes: int = DEFAULT_MAX_BYTES
) -> Reporter:
    """Return a reporter that keeps its spool in a temporary folder, which is said, where `directory` cannot be written.

    Raises:
        ConfigurationError, SpoolInUseError: see Reporter.
        SpoolError: nothing can be written anywhere.
    """
    elsewhere = Elsewhere()
    try:
        return Reporter(registration, directory, target, max_bytes=max_bytes, elsewhere=elsewhere)
    except SpoolInUseError:
        raise
    except SpoolError as error:
        for folder in elsewhere.folders():
            with suppress(SpoolError):
                reporter = Reporter(registration, folder, target, max_bytes=max_bytes, elsewhere=elsewhere)
                logger.warning(
                    "sparsity-monitor: %s Training goes on. Observations are kept in %s, and delivered from there. "
                    "What is left after the training is delivered with: %s",
                    error,
                    shown_path(folder),
                    push_command(folder, target),
                )
                return reporter
        raise


def _check_arguments(registration: object, directory: object, max_bytes: object) -> None:
    if not isinstance(registration, pb.Registration):
        raise ConfigurationError(
            f"registration is {shown(registration)}; expected what registration_message(observer, run_id=…, name=…) "
            "returns."
        )
    if not isinstance(directory, str | Path):
        raise ConfigurationError(f"directory is {shown(directory)}; expected where the spool is to be kept, a path.")
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
        raise ConfigurationError(f"max_bytes is {shown(max_bytes)}; expected a whole number of bytes.")


def _begin(registration: pb.Registration, directory: Path, max_bytes: int) -> AttemptKey:
    """Record the start of the next attempt of a run, and set its number in the registration."""
    with closing(sound_spool(directory, max_bytes)) as spool:
        registration.attempt = max(registration.attempt, spool.latest_attempt(registration.run_id) + 1)
        key = AttemptKey(registration.run_id, registration.attempt)
        spool.begin(key, registration.SerializeToString(deterministic=True))
    return key
