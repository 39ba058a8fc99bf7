"""The uploader's process, as the training process has it: started, woken after each commit, restarted when it dies."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from pathlib import Path

from monitor.report.log.seldom import Seldom
from monitor.report.log.shell import shown
from monitor.report.log.uploader import UPLOADER_LOG, keep_short
from monitor.report.processes import interpreter
from monitor.report.processes.exit_status import EXIT_DAMAGED, EXIT_NOT_DELIVERED
from monitor.report.processes.signals import as_arguments, note_signals
from monitor.report.spool.attempt import AttemptKey

logger = logging.getLogger(__name__)

# An uploader that died is restarted at once, then after pauses that double: one that crashes at its start must not cost
# the training a core, and one that crashes now and then, over weeks, must always come back.
_FIRST_RESTART_SECONDS, _LAST_RESTART_SECONDS = 1.0, 600.0


class UploaderProcess:
    """Keeps an uploader running for one attempt.

    The writer thread starts, wakes and closes it; any thread may ask for `pid` and `has_ended`.

    Args:
        directory: the spool's.
        target: gRPC address of the service, host:port. None starts no uploader.
        key: the attempt.
    """

    def __init__(self, directory: Path, target: str | None, key: AttemptKey) -> None:
        self._directory = directory
        self._target = target
        self._key = key
        self._process: subprocess.Popen[bytes] | None = None
        self._restart_pause = 0.0
        self._restart_at = 0.0
        self._warn_of_death = Seldom(logger.warning)

    @property
    def pid(self) -> int | None:
        """Process id of the uploader that was started last; None before the first."""
        return None if self._process is None else self._process.pid

    def has_ended(self) -> bool:
        """Return whether an uploader was started and runs no more."""
        process = self._process
        return process is not None and process.poll() is not None

    def has_died(self) -> bool:
        """Return whether it ended otherwise than an uploader ends by itself, and none was started in its place."""
        return self._process is not None and self._process.poll() not in (None, 0, EXIT_NOT_DELIVERED, EXIT_DAMAGED)

    def has_found_damage(self) -> bool:
        """Return whether it ended because the spool's file is damaged."""
        return self._process is not None and self._process.poll() == EXIT_DAMAGED

    def keep_running(self) -> None:
        """Start an uploader if there is none or it died, unless it ended because trying again would not help.

        Raises:
            OSError: no process can be started.
        """
        if self._target is None or time.monotonic() < self._restart_at:
            return
        status = None if self._process is None else self._process.poll()
        if self._process is not None and status in (None, 0, EXIT_NOT_DELIVERED):
            return
        if status is not None:
            log = shown(self._directory / UPLOADER_LOG)
            self._warn_of_death(
                "sparsity-monitor: the uploader died (status %d, see %s); starting it again", status, log
            )
        self._restart_at = time.monotonic() + self._restart_pause
        self._restart_pause = min(max(2 * self._restart_pause, _FIRST_RESTART_SECONDS), _LAST_RESTART_SECONDS)
        self._close_wakeups()
        self._process = _start(self._directory, self._target, self._key)

    def wake(self) -> None:
        """Wake the uploader: there is something new in the spool."""
        if self._process is None or self._process.stdin is None or self._process.stdin.closed:
            return
        try:
            # The pipe does not block: where it is full of wake-ups already, nothing is written.
            self._process.stdin.write(b"\0")
        except BrokenPipeError:
            logger.info("the uploader ended; the next commit starts it again if it is needed")

    def wait(self, timeout: float) -> bool | None:
        """Wait up to `timeout` seconds for its end, and return whether it delivered everything.

        None while it runs, or if it died: started again, it goes on.
        """
        if self._process is None:
            return False
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return None if self.has_died() else status == 0

    def stop(self) -> None:
        """End it: what it delivers from was lost or left. What is not acknowledged is sent again from elsewhere."""
        self._close_wakeups()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Wake it no more. It goes on by itself with what is left to deliver."""
        self._close_wakeups()
        _collect_ended()
        if self._process is not None and self._process.poll() is None:
            # Keeps Popen from warning, when it is garbage collected, that the process still runs: it should.
            self._process.returncode = 0
            _left.add(self._process.pid)

    def _close_wakeups(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


# Those that go on by themselves. Each stays in the system's table of processes until it is collected.
_left: set[int] = set()


def _collect_ended() -> None:
    for pid in list(_left):
        try:
            has_ended = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            # Somebody else did, or this is a forked child.
            has_ended = True
        if has_ended:
            _left.discard(pid)


def _start(directory: Path, target: str, key: AttemptKey) -> subprocess.Popen[bytes]:
    _collect_ended()
    signals = note_signals()
    # After "--", since a user's run id may start with a hyphen.
    arguments = [
        "--signals",
        *as_arguments(signals),
        "--",
        str(directory),
        target,
        str(os.getpid()),
        key.run_id,
        str(key.attempt),
    ]
    # One that dies at its start does not come to do it.
    keep_short(directory / UPLOADER_LOG)
    with (directory / UPLOADER_LOG).open("ab") as log, _starting:
        process = subprocess.Popen(
            # The same name in every version: a training may start the uploader of one that was installed meanwhile.
            [*interpreter.command("monitor.report.uploader"), *arguments],
            stdin=subprocess.PIPE,
            pass_fds=tuple(signals.values()),
            bufsize=0,
            stdout=log,
            stderr=log,
            env=interpreter.environment(),
            # A session of its own: Ctrl-C in the terminal interrupts the training, not the delivery.
            start_new_session=True,
        )
    if process.stdin is not None:
        os.set_blocking(process.stdin.fileno(), False)
    return process


# Popen waits until nobody holds its pipe any more; a DataLoader's worker that is forked meanwhile would, all its life.
_starting = threading.Lock()
_FORK_SECONDS = 5.0
_fork = threading.local()


def _wait_for_start() -> None:
    # Not for ever: a training waits here.
    _fork.waited = _starting.acquire(timeout=_FORK_SECONDS)


def _forked() -> None:
    if _fork.waited:
        _starting.release()


def _forget_in_child() -> None:
    # The thread that holds it is not there.
    global _starting  # noqa: PLW0603
    _starting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_start, after_in_parent=_forked, after_in_child=_forget_in_child)
