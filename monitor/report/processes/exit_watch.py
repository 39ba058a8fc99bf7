"""Notices that the process ends while a run is still open, and with which exception."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType

from monitor.report.messages.ending import reason_of


class ExitWatch:
    """Calls `on_exit` with a reason when this process ends before `stop`.

    The Trainer tells its callbacks nothing when training raises. What `sys.exit` is given is not known by then, and a
    process that is killed cannot tell anything; the uploader does that for it.
    """

    def __init__(self, on_exit: Callable[[str], None]) -> None:
        self._on_exit = on_exit
        self._process = os.getpid()
        self._reason = "the training process ended before the training did"
        atexit.register(self._exit)
        _watches.add(self)

    def see(self, error: BaseException) -> None:
        """Take an exception that nobody caught for the reason."""
        self._reason = reason_of(error)

    def _exit(self) -> None:
        # A forked child that calls sys.exit does not end the run.
        if os.getpid() == self._process:
            self._on_exit(self._reason)

    def stop(self) -> None:
        """Notice nothing any more."""
        atexit.unregister(self._exit)
        _watches.remove(self)


class _Hook:
    """What is in `sys.excepthook` for all open watches. It holds none of them: whoever replaces it may keep it."""

    def __init__(self) -> None:
        self.before = sys.excepthook

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        _watches.see(error)
        self.before(kind, error, traceback)


class _Watches:
    """The watches that are open. There is a hook on top as long as there are any, unless somebody replaces it."""

    def __init__(self) -> None:
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # A forked child has none of its parent's. Not a plain lock: what handles a signal may end a run in between.
        self._lock = threading.RLock()
        self._open: set[ExitWatch] = set()

    def add(self, watch: ExitWatch) -> None:
        with self._lock:
            self._open.add(watch)
            # Another one where somebody's is on top, which may not pass on. Ours below it then has nothing to do.
            if not isinstance(sys.excepthook, _Hook):
                sys.excepthook = _Hook()

    def remove(self, watch: ExitWatch) -> None:
        with self._lock:
            self._open.discard(watch)
            if not self._open and isinstance(sys.excepthook, _Hook):
                sys.excepthook = sys.excepthook.before

    def see(self, error: BaseException) -> None:
        for watch in list(self._open):
            watch.see(error)


_watches = _Watches()
