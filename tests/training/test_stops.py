"""Who stopped a training, as far as its callbacks' events tell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from monitor.training.stops import StopNotice
from monitor.wire import monitor_pb2 as pb


class Ours(TrainerCallback):  # type: ignore[misc]
    """Looks as SparsityCallback does."""

    def __init__(self, notice: StopNotice) -> None:
        self.notice = notice

    def _see(self, event: str, args: Any, state: Any, control: Any) -> None:
        self.notice.before(event, args, state, control, own=self)
        self.notice.after(control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._see("on_step_begin", args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._see("on_step_end", args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._see("on_epoch_end", args, state, control)


class Stops(TrainerCallback):  # type: ignore[misc]
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True


class StopsElsewhere(TrainerCallback):  # type: ignore[misc]
    """In a function that the event calls."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        setattr(control, "_".join(["should", "training", "stop"]), True)


class Breaks(TrainerCallback):  # type: ignore[misc]
    """Has no code that could be looked at."""

    on_step_end = staticmethod(lambda *_, **__: None)


class JITCheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """As the one of transformers: saves, then stops."""

    def __init__(self, directory: Path, *, at_step_end: bool = True) -> None:
        self.directory = directory
        self.is_requested = at_step_end

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_requested:
            control.should_training_stop = True
            (self.directory / f"checkpoint-{state.global_step}").mkdir(exist_ok=True)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_requested:
            control.should_training_stop = True


class Training:
    """The events of a training of 10 steps, of which 2 were made."""

    def __init__(self, directory: Path, *callbacks: Any) -> None:
        self.notice = StopNotice()
        ours = Ours(self.notice)
        listed = [DefaultFlowCallback(), *(ours if each is None else each for each in callbacks)]
        self.handler = CallbackHandler(listed, None, None, None, None)
        self.args = TrainingArguments(output_dir=str(directory), report_to="none", use_cpu=True)
        self.args.enable_jit_checkpoint = True
        self.state, self.control = TrainerState(max_steps=10, global_step=1), TrainerControl()
        self.state.logging_steps = self.state.save_steps = self.state.eval_steps = 100

    def event(self, name: str) -> None:
        getattr(self.handler, name)(self.args, self.state, self.control)

    def step(self) -> None:
        self.event("on_step_begin")
        self.state.global_step += 1
        self.event("on_step_end")
        self.event("on_epoch_end")

    @property
    def ending(self) -> tuple[Any, str]:
        ending = self.notice.ending(self.state)
        return ending.kind, ending.stopped_by


STOPPED, PREEMPTED = pb.Finish.ENDING_STOPPED, pb.Finish.ENDING_PREEMPTED
OURS = None


@pytest.mark.parametrize(
    ("callbacks", "by"),
    [
        ([Stops(), OURS], "Stops"),
        ([OURS, Stops()], "Stops"),
        ([Breaks(), Stops(), OURS], "Stops"),
        ([Breaks(), OURS, StopsElsewhere()], "StopsElsewhere"),
        ([StopsElsewhere(), OURS], "StopsElsewhere"),
    ],
)
def test_the_callback_that_sets_the_flag_is_named(callbacks: list[Any], by: str, tmp_path: Path) -> None:
    training = Training(tmp_path, *callbacks)
    training.step()
    assert training.ending == (STOPPED, by)


def test_a_flag_that_nobody_set_whom_we_know_of_is_said_so(tmp_path: Path) -> None:
    training = Training(tmp_path, OURS)
    training.control.should_training_stop = True
    training.event("on_epoch_end")
    assert training.ending == (STOPPED, "")
    assert training.notice.ending(training.state).reason == "stopped early by something in the training"


@pytest.mark.parametrize("others", [[], [Stops()]])
@pytest.mark.parametrize("saved_before", [False, True])
def test_a_checkpoint_after_sigterm_is_told_from_other_stops(
    others: list[Any], saved_before: bool, tmp_path: Path
) -> None:
    if saved_before:
        (tmp_path / "checkpoint-1").mkdir()
    training = Training(tmp_path, JITCheckpointCallback(tmp_path), *others, OURS)
    training.step()
    assert training.ending[0] == PREEMPTED


def test_data_that_have_come_to_their_end_are_no_preemption(tmp_path: Path) -> None:
    training = Training(tmp_path, JITCheckpointCallback(tmp_path, at_step_end=False), OURS)
    training.step()
    # As the Trainer does, after it has saved a checkpoint at the last step.
    (tmp_path / "checkpoint-2").mkdir()
    training.event("on_step_begin")
    training.control.should_training_stop = True
    training.event("on_epoch_end")
    assert training.ending == (STOPPED, "")


@pytest.mark.parametrize(("step", "kind"), [(9, STOPPED), (10, pb.Finish.ENDING_COMPLETED)])
def test_a_training_that_was_told_to_stop_at_its_last_step_is_complete(step: int, kind: int, tmp_path: Path) -> None:
    training = Training(tmp_path, Stops(), OURS)
    training.state.global_step = step - 1
    training.step()
    assert training.ending[0] == kind


def test_what_our_own_answer_set_was_on_dense() -> None:
    notice, control = StopNotice(), TrainerControl()
    state = SimpleNamespace(global_step=2, max_steps=10)
    notice.before("on_step_end", SimpleNamespace(), state, control, own=TrainerCallback())
    control.should_training_stop = True
    notice.after(control)
    assert notice.ending(state).stopped_by == "on_dense"
