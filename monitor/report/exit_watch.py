"""Notices that the process ends while a run is still open, and with which exception."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from types import TracebackType

from monitor.report.ending import reason_of


class ExitWatch:
    """Calls `on_exit` with a reason when this process ends before `stop`.

    The Trainer tells its callbacks nothing when training raises. What `sys.exit` is given is not known by then, and a
    process that is killed cannot tell anything; the uploader does that for it.
    """

    def __init__(self, on_exit: Callable[[str], None]) -> None:
        self._on_exit = on_exit
        self._process = os.getpid()
        self._reason = "the training process ended before the training did"
        self._previous_hook = sys.excepthook
        self._hook = self._note_exception
        sys.excepthook = self._hook
        atexit.register(self._exit)

    def _note_exception(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        self._reason = reason_of(error)
        self._previous_hook(kind, error, traceback)

    def _exit(self) -> None:
        # A forked child that calls sys.exit does not end the run.
        if os.getpid() == self._process:
            self._on_exit(self._reason)

    def stop(self) -> None:
        """Notice nothing any more."""
        atexit.unregister(self._exit)
        if sys.excepthook is self._hook:
            sys.excepthook = self._previous_hook
