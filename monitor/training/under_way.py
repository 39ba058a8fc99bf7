"""The trainings that go on in this process: the end of one that was left by an exception, and its words.

A Trainer that raises tells its callbacks nothing, and whoever catches the exception keeps the process: a notebook, a
sweep, a Ray actor. What tells that a training is over is that its loop is on no thread's stack any more.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, takewhile
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from monitor.report.messages.ending import reason_of
from monitor.report.reporter import Reporter

if TYPE_CHECKING:
    from transformers import TrainerState

logger = logging.getLogger(__name__)

LEFT = "the training was left before its end, by an exception that attach(trainer) would have named"

_LOOK_SECONDS = 2.5
_NEAR = 10
_LIBRARIES = ("transformers", "trl", "accelerate")
# Frames of these are there at some times and not at others, while the training goes on.
_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Training:
    """A training whose events are being handled, known by its loop.

    Args:
        state: the trainer's, which is another one in each training.
        event: the frame of one of its events.
        parts: what else the loop holds, such as the model. It may replace its state while it goes on.
    """

    def __init__(self, state: TrainerState, event: FrameType, *parts: object) -> None:
        self._parts = [weakref.ref(each) for each in (state, *parts)]
        loop = _loop_of(state, event)
        # Not the frame itself: it would keep alive what is in it.
        self._loop = None if loop is None else (id(loop), loop.f_code)
        can_be_watched = loop is not None and not loop.f_code.co_flags & _SUSPENDED
        # A loop of somebody else's may call its callbacks from a function that returns before the training is over.
        known = loop is not None and _is_of_a_library(loop)
        self._is_watched = can_be_watched and known
        # Held until a step tells which it is: another call of a function that has returned could have its address.
        self._begun_in = loop if can_be_watched and not known else None

    def see_step(self, event: FrameType) -> None:
        """Learn, in an event of a later step, whether the loop is the one in which the training began."""
        if (begun_in := self._begun_in) is not None:
            self._is_watched = any(frame is begun_in for frame in _callers(event))
            self._begun_in = None

    def was_left(self) -> bool:
        """Return whether it is over, as far as can be told."""
        if self._is_watched:
            return not any(self._is_loop(frame) for frame in _on_any_stack())
        if (begun_in := self._begun_in) is not None and not any(frame is begun_in for frame in _on_any_stack()):
            # It has returned, and nothing more is learned from it.
            self._begun_in = None
        return all(part() is None for part in self._parts)

    def has_the_loop_of(self, other: Training) -> bool:
        """Return whether the other one runs where this one did: then this one is over."""
        return self._is_watched and self._loop == other._loop

    def was_left_by(self, error: BaseException) -> bool:
        """Return whether an exception came out of its loop."""
        return any(self._is_loop(frame) for each in _with_causes(error) for frame in _frames_of(each.__traceback__))

    def _is_loop(self, frame: FrameType) -> bool:
        return self._loop == (id(frame), frame.f_code)


class Run(Protocol):
    """What is open as long as its training goes on."""

    def fail(self, reason: str) -> None:
        """Collect what is under way, and end as failed."""


class Opened(NamedTuple):
    """What is ended with a training.

    Attributes:
        run: weakly, because it holds a copy of the weights, and goes when its trainer does.
        reporter: of the run.
        is_alone: no other process trains with this one.
    """

    run: weakref.ref[Run]
    reporter: Reporter
    is_alone: bool


class TrainingsUnderWay:
    """The trainings of this process whose runs are open. A thread looks after them as long as there are any.

    The thread ends none that several processes share. Were it wrong, this one would observe no more, and the others
    would wait for its counts; so such a training ends when the next one begins, when a cell raises, or at exit.
    """

    def __init__(self) -> None:
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # A forked child has none of its parent's, nor its thread.
        self._lock = threading.Lock()
        self._open: dict[Training, Opened] = {}
        self._closed = threading.Event()

    def add(self, training: Training, run: Run, reporter: Reporter, *, is_alone: bool) -> None:
        """Look after a training from now on; `is_alone` says that no other process trains with this one."""
        with self._lock:
            if not self._open:
                self._closed = threading.Event()
                threading.Thread(
                    target=self._look, args=(self._closed,), name="sparsity-monitor watch", daemon=True
                ).start()
                cells.follow(self)
            self._open[training] = Opened(weakref.ref(run), reporter, is_alone)

    def remove(self, reporter: Reporter) -> None:
        """Look no more after the training that is reported there."""
        with self._lock:
            self._open = {training: run for training, run in self._open.items() if run.reporter is not reporter}
            if not self._open:
                self._closed.set()
                cells.leave()

    def reporters(self) -> list[Reporter]:
        """Return what reports them."""
        return [opened.reporter for opened in self._open.values()]

    def end_left(self, error: BaseException | None = None, newcomer: Training | None = None) -> None:
        """End the runs of trainings that were left.

        Args:
            error: an exception that may have done it, besides those that Python knows of.
            newcomer: a training that begins.
        """
        for training in list(self._open):
            if training.was_left() or (newcomer is not None and training.has_the_loop_of(newcomer)):
                self._end(training, error)

    def _end(self, training: Training, error: BaseException | None = None) -> None:
        if (opened := self._open.get(training)) is None:
            return
        run, reporter = opened.run(), opened.reporter
        known = [each for each in (error, *_exceptions_at_hand()) if each is not None and training.was_left_by(each)]
        try:
            (reporter if run is None else run).fail(reason_of(known[0]) if known else LEFT)
        except Exception:
            # It is not the trouble of the training that begins now, nor of the one that goes on.
            logger.exception("an error in sparsity-monitor at the end of a training that was left")
        finally:
            self.remove(reporter)

    def _look(self, closed: threading.Event) -> None:
        suspects: set[Training] = set()
        while not closed.wait(_LOOK_SECONDS):
            trainings = list(self._open.items())
            left = {training for training, opened in trainings if training.was_left() and opened.is_alone}
            # Seen twice: a loop may be away for a moment, as greenlets are.
            for training in left & suspects:
                self._end(training)
            suspects = left


class NotebookCells:
    """Tells, where this is a notebook, that a cell has ended with an exception."""

    def __init__(self) -> None:
        self._events: Any = None
        self._trainings: TrainingsUnderWay | None = None

    def follow(self, trainings: TrainingsUnderWay) -> None:
        """Listen to the notebook, if there is one."""
        self._trainings = trainings
        # Not imported: where nobody has, this is no notebook.
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if shell is not None and self._events is None:
            self._events = shell.events
            self._events.register("post_run_cell", self._cell_has_run)

    def leave(self) -> None:
        """Listen no more."""
        if self._events is not None:
            with suppress(ValueError):
                self._events.unregister("post_run_cell", self._cell_has_run)
        self._events = None

    def _cell_has_run(self, result: Any) -> None:
        error = getattr(result, "error_in_exec", None)
        if self._trainings is not None and error is not None:
            self._trainings.end_left(error)


cells = NotebookCells()
under_way = TrainingsUnderWay()


def _loop_of(state: TrainerState, event: FrameType) -> FrameType | None:
    """Return the innermost caller that is a method of the trainer, or the trainer's `train` that called it.

    With auto_find_batch_size, `train` calls its loop again after an out-of-memory error, and takes its time for it.
    """
    # Not far: before Python 3.13, a frame that was asked for its variables keeps them alive.
    for frame in islice(_callers(event), _NEAR):
        if getattr(frame.f_locals.get("self"), "state", None) is state:
            return next((each for each in takewhile(_is_of_a_library, _callers(frame)) if _is_train(each)), frame)
    return None


def _is_train(frame: FrameType) -> bool:
    return frame.f_code.co_name == "train"


def _is_of_a_library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LIBRARIES


def _on_any_stack() -> Iterator[FrameType]:
    for top in sys._current_frames().values():
        yield from _callers(top)


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _frames_of(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _exceptions_at_hand() -> list[BaseException]:
    """Return the exceptions that are being handled now, and the one that an interactive session showed last."""
    # Before Python 3.12, each is what `sys.exc_info` returns.
    handled = [each[1] if isinstance(each, tuple) else each for each in sys._current_exceptions().values()]
    shown = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return [each for each in (*handled, shown) if isinstance(each, BaseException)]
