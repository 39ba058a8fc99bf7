"""Why a training ended before its planned steps: what told it to stop."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from types import FrameType

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from monitor.report.messages.ending import COMPLETED, Ending, preempted, stopped
from monitor.training.directories import checkpoint_directory
from monitor.training.on_dense import ON_DENSE

# Of transformers, where it has one: it saves a checkpoint and stops the training after a SIGTERM.
_ON_SIGTERM = "JITCheckpointCallback"
_FLAG = "should_training_stop"


class StopNotice:
    """Notices when a training is told to stop, and by whom: between which of our events the flag was set.

    Attributes:
        by: class names of the callbacks that may have done it; empty where nothing is known.
        is_preempted: whether it was transformers, because of a SIGTERM.
    """

    def __init__(self) -> None:
        self.by = ""
        self.is_preempted = False
        self._is_set = False
        self._latest = "on_train_begin"
        self._saved: int | None = None

    def before(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, own: TrainerCallback
    ) -> None:
        """Look at the flag before our own answer to an event."""
        was_saved_now = self._sees_a_new_checkpoint(args, state)
        if control.should_training_stop and not self._is_set:
            self._is_set = True
            try:
                suspects = self._suspects(event, _callbacks(sys._getframe()), own)
            except Exception:  # noqa: BLE001
                # Callbacks are other people's: whatever they are made of, the training goes on being observed.
                suspects = []
            names = dict.fromkeys(type(each).__name__ for each in suspects)
            # Before the end of an epoch, the Trainer itself sets the flag where the data have come to their end.
            alone = list(names) == [_ON_SIGTERM] and event != "on_epoch_end"
            self.is_preempted = _ON_SIGTERM in names and (alone or was_saved_now)
            self.by = " or ".join(name for name in names if name != _ON_SIGTERM)
        self._latest = event

    def after(self, control: TrainerControl) -> None:
        """Look at it after our own answer: what we set, was asked for by `on_dense`."""
        if control.should_training_stop and not self._is_set:
            self._is_set = True
            self.by = ON_DENSE

    def ending(self, state: TrainerState) -> Ending:
        """Return how a training has ended that was not left by an exception."""
        if state.global_step >= state.max_steps:
            return COMPLETED
        if self.is_preempted:
            return preempted("SIGTERM: transformers saved a checkpoint and ended the training (enable_jit_checkpoint)")
        return stopped(self.by)

    def _sees_a_new_checkpoint(self, args: TrainingArguments, state: TrainerState) -> bool:
        """Return whether a checkpoint of this step is there that was not at our latest event."""
        if not getattr(args, "enable_jit_checkpoint", False):
            return False
        before = self._saved
        self._saved = state.global_step if checkpoint_directory(args, state.global_step).is_dir() else None
        return self._saved is not None and self._saved != before

    def _suspects(
        self, event: str, callbacks: Sequence[TrainerCallback], own: TrainerCallback
    ) -> list[TrainerCallback]:
        """Return the callbacks that have had an event since our latest one, and write the flag in what answers it."""
        place = next((index for index, each in enumerate(callbacks) if each is own), len(callbacks))
        asked = [(each, self._latest) for each in callbacks[place + 1 :]]
        asked += [(each, event) for each in callbacks[:place]]
        asked = [(each, name) for each, name in asked if _answers(each, name) and type(each) is not DefaultFlowCallback]
        sure = [each for each, name in asked if _sets_the_flag(each, name)]
        return sure or [each for each, _ in asked if not _is_of_a_library(each)]


def _callbacks(frame: FrameType | None) -> Sequence[TrainerCallback]:
    """Return the trainer's callbacks in their order: events do not tell, but their caller knows."""
    while frame is not None:
        if isinstance(handler := frame.f_locals.get("self"), CallbackHandler):
            return tuple(handler.callbacks)
        frame = frame.f_back
    return ()


def _answers(callback: TrainerCallback, event: str) -> bool:
    return getattr(type(callback), event, None) not in (None, getattr(TrainerCallback, event, None))


def _sets_the_flag(callback: TrainerCallback, event: str) -> bool:
    code = getattr(inspect.unwrap(getattr(type(callback), event)), "__code__", None)
    return code is not None and _FLAG in code.co_names


def _is_of_a_library(callback: TrainerCallback) -> bool:
    return type(callback).__module__.partition(".")[0] in ("transformers", "trl", "accelerate", "peft", "monitor")
