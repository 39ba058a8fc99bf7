"""What a thread is in the middle of when another one forks, which the child would find like that for ever.

SQLite guards what it shares between connections with locks of its own. A child that is forked while a thread holds one
of them would wait for it as soon as it uses SQLite itself, for whatever: nobody there lets go.
"""

from __future__ import annotations

import os
import threading
import time
import weakref

# A thread that takes longer waits for its disk, or for another process, and holds none of those locks meanwhile.
_FORK_SECONDS = 0.2


class Undivided:
    """A context, of one thread, within which this process is not forked, unless it lasts."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entered = 0
        self._lasts = -1
        _all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()
        self._entered += 1

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def stop(self, until: float) -> bool:
        """Keep whoever has it out of it, and return whether nobody is in it; one that lasts is waited for once."""
        seconds = 0.0 if self._lasts == self._entered else max(0.0, until - time.monotonic())
        if self._lock.acquire(timeout=seconds):
            return True
        self._lasts = self._entered
        return False

    def go_on(self) -> None:
        """After `stop` returned True, in the same thread."""
        self._lock.release()

    def begin_again(self) -> None:
        """In a child, where the thread is not that was in it."""
        self._lock = threading.RLock()


_all: weakref.WeakSet[Undivided] = weakref.WeakSet()
_fork = threading.local()


def _stop_all() -> None:
    until = time.monotonic() + _FORK_SECONDS
    _fork.stopped = [each for each in list(_all) if each.stop(until)]


def _go_on() -> None:
    for each in _fork.__dict__.pop("stopped", ()):
        each.go_on()


def _begin_again() -> None:
    stopped = set(_fork.__dict__.get("stopped", ()))
    # The thread that forked is there, and may be in one itself.
    _go_on()
    for each in set(_all) - stopped:
        each.begin_again()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stop_all, after_in_parent=_go_on, after_in_child=_begin_again)
