"""The one place of all open runs in `sys.excepthook`."""

from __future__ import annotations

import gc
import sys
import weakref
from types import TracebackType

import pytest

from monitor.report.processes.exit_watch import ExitWatch

ERROR = RuntimeError("CUDA out of memory")


class Ending:
    """What a watch calls, and what it was told."""

    def __init__(self) -> None:
        self.reason = ""

    def end(self, reason: str) -> None:
        self.reason = reason


class Hook:
    """A hook that counts what comes to it, and passes it on if it is given where to."""

    def __init__(self, before: object = None) -> None:
        self.before = before
        self.errors: list[BaseException] = []

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        self.errors.append(error)
        if callable(self.before):
            self.before(kind, error, traceback)


@pytest.fixture(autouse=True)
def first(monkeypatch: pytest.MonkeyPatch) -> Hook:
    """The hook that is there before any run."""
    hook = Hook()
    monkeypatch.setattr(sys, "excepthook", hook)
    return hook


def raise_uncaught() -> None:
    sys.excepthook(RuntimeError, ERROR, None)


def reason_at_exit(watch: ExitWatch, ending: Ending) -> str:
    watch._exit()
    return ending.reason


def test_runs_that_end_in_the_order_they_began_leave_the_hook_as_it_was(first: Hook) -> None:
    endings = [Ending(), Ending()]
    watches = [ExitWatch(ending.end) for ending in endings]
    held = [weakref.ref(each) for each in (*watches, *endings)]
    watches.pop(0).stop()
    raise_uncaught()
    assert reason_at_exit(watches[0], endings[1]) == "RuntimeError: CUDA out of memory"
    assert endings[0].reason == ""
    watches.pop().stop()
    assert sys.excepthook is first
    endings.clear()
    gc.collect()
    assert not any(ref() for ref in held)


def test_an_exception_is_the_reason_of_all_open_runs_and_passed_on_once(first: Hook) -> None:
    endings = [Ending(), Ending()]
    watches = [ExitWatch(ending.end) for ending in endings]
    raise_uncaught()
    assert first.errors == [ERROR]
    assert [reason_at_exit(*pair) for pair in zip(watches, endings, strict=True)] == [
        "RuntimeError: CUDA out of memory"
    ] * 2
    for watch in watches:
        watch.stop()


@pytest.mark.parametrize("passes_on", [True, False])
def test_a_hook_that_somebody_sets_meanwhile_stays_and_holds_no_run(first: Hook, passes_on: bool) -> None:
    ending = Ending()
    watch, held = ExitWatch(ending.end), weakref.ref(ending)
    theirs = Hook(sys.excepthook if passes_on else None)
    sys.excepthook = theirs
    later = Ending()
    second = ExitWatch(later.end)
    watch.stop()
    raise_uncaught()
    assert reason_at_exit(second, later) == "RuntimeError: CUDA out of memory"
    second.stop()
    assert sys.excepthook is theirs
    del watch, ending
    gc.collect()
    assert held() is None
    raise_uncaught()
    assert theirs.errors == [ERROR] * 2
    assert first.errors == [ERROR] * 2 * passes_on


def test_a_run_after_a_run_under_a_hook_that_stays_adds_nothing(first: Hook) -> None:
    watch = ExitWatch(Ending().end)
    sys.excepthook = theirs = Hook(sys.excepthook)
    watch.stop()
    for _ in range(3):
        ExitWatch(Ending().end).stop()
        assert sys.excepthook is theirs
    raise_uncaught()
    assert first.errors == [ERROR]
