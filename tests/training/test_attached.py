"""What `attach` puts around `trainer.train` is not seen by anybody, and changes nothing about it."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback

from monitor import SparsityCallback
from monitor.training.attached import tell_of_failure
from monitor.training.under_way import under_way
from monitor.wire import monitor_pb2 as pb
from tests.spooled import attempts, spooled
from tests.tiny import common_arguments, plain_trainer, save_model

STARTED_AGAIN = (pb.Finish.ENDING_FAILED, "training was started again before it had ended")


class Told(TrainerCallback):  # type: ignore[misc]
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def failed(self, error: BaseException) -> None:
        self.errors.append(error)


class Loop:
    """What `tell_of_failure` needs of a trainer."""

    def __init__(self, *callbacks: TrainerCallback) -> None:
        self.callback_handler = SimpleNamespace(callbacks=list(callbacks))
        self.trained = 0

    def train(self, resume: bool = False, *, error: BaseException | None = None) -> int:
        """Train."""
        self.trained += 1
        if error is not None:
            raise error
        return self.trained


def told_of(loop: Loop, told: Told) -> None:
    tell_of_failure(loop, told, "failed")


@pytest.mark.parametrize(
    "error", [ValueError("no data"), KeyboardInterrupt(), SystemExit("no more data"), GeneratorExit()], ids=repr
)
def test_what_is_raised_is_told_once_and_goes_on_unchanged(error: BaseException) -> None:
    told = Told()
    loop = Loop(told)
    told_of(loop, told)
    told_of(loop, told)
    with pytest.raises(type(error)) as caught:
        loop.train(error=error)
    assert caught.value is error
    assert told.errors == [error]
    assert loop.train(resume=True) == 2


def test_two_callbacks_are_told_both() -> None:
    first, second = Told(), Told()
    loop = Loop(first, second)
    for _ in range(2):
        told_of(loop, first)
    told_of(loop, second)
    with pytest.raises(ValueError, match="no data"):
        loop.train(error=ValueError("no data"))
    assert (len(first.errors), len(second.errors)) == (1, 1)


def test_a_callback_that_was_removed_is_not_told() -> None:
    told = Told()
    loop = Loop()
    told_of(loop, told)
    with pytest.raises(ValueError, match="no data"):
        loop.train(error=ValueError("no data"))
    assert not told.errors


def test_the_method_looks_as_it_did() -> None:
    loop, before = Loop(), Loop()
    told_of(loop, Told())
    assert inspect.signature(loop.train) == inspect.signature(before.train)
    assert (loop.train.__name__, loop.train.__doc__) == ("train", "Train.")
    assert isinstance(loop.train, MethodType)
    assert loop.train.__self__ is loop


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda loop: pickle.loads(pickle.dumps(loop))])
def test_a_copy_of_the_trainer_trains_itself(copied: Any) -> None:
    told = Told()
    loop = Loop(told)
    told_of(loop, told)
    other = copied(loop)
    assert other.train() == 1
    assert loop.trained == 0


def test_what_somebody_has_put_in_place_of_the_method_is_called() -> None:
    loop = Loop()
    loop.train = lambda: "mine"  # type: ignore[method-assign, assignment, misc]
    told_of(loop, Told())
    assert loop.train() == "mine"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def failing_at(trainer: Trainer, *calls: int) -> None:
    """Run out of memory at these calls."""
    training_step, counted = trainer.training_step, iter(range(1, 100))

    def step(*given: Any, **named: Any) -> Any:
        if next(counted) in calls:
            raise RuntimeError("CUDA out of memory.")
        return training_step(*given, **named)

    trainer.training_step = step


def ends_of(callback: SparsityCallback) -> list[tuple[int, str]]:
    return [(finish.ending, finish.reason) for finish in spooled(callback, "finish")]


def test_trials_that_raise_are_runs_that_failed_each_with_its_own_words(model: Path, tmp_path: Path) -> None:
    callbacks = []
    for trial in range(3):
        arguments = common_arguments(tmp_path / str(trial), gradient_accumulation_steps=1)
        trainer = plain_trainer(model, arguments, [])
        failing_at(trainer, *([trial + 1] if trial < 2 else []))
        callbacks.append(SparsityCallback(None, f"trial {trial}").attach(trainer))
        try:
            trainer.train()
        except RuntimeError:
            continue
    failed = (pb.Finish.ENDING_FAILED, "RuntimeError: CUDA out of memory.")
    assert [ends_of(callback) for callback in callbacks] == [[failed], [failed], [(pb.Finish.ENDING_COMPLETED, "")]]
    assert [len(spooled(callback, "observation")) for callback in callbacks] == [0, 1, 4]


def test_a_training_that_is_tried_again_with_smaller_batches_goes_on(model: Path, tmp_path: Path) -> None:
    arguments = common_arguments(tmp_path, gradient_accumulation_steps=1, auto_find_batch_size=True)
    trainer = plain_trainer(model, arguments, [])
    failing_at(trainer, 2)
    callback = SparsityCallback(None, "tried again").attach(trainer)
    trainer.train()
    assert ends_of(callback) == [STARTED_AGAIN, (pb.Finish.ENDING_COMPLETED, "")]
    assert [attempt.finished for attempt in attempts(callback)] == [True, True]


def test_a_training_that_takes_long_to_be_tried_again_is_not_left_meanwhile(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = common_arguments(tmp_path, gradient_accumulation_steps=1, auto_find_batch_size=True)
    trainer = plain_trainer(model, arguments, [])
    failing_at(trainer, 2)
    callback = SparsityCallback(None, "tried again").attach(trainer)
    looked: list[None] = []

    def look_meanwhile(**_options: Any) -> None:
        # What the thread does that looks after trainings.
        looked.append(under_way.end_left())

    monkeypatch.setattr("accelerate.utils.memory.clear_device_cache", look_meanwhile)
    trainer.train()
    assert looked
    assert ends_of(callback) == [STARTED_AGAIN, (pb.Finish.ENDING_COMPLETED, "")]


def test_a_training_in_a_callback_of_another_one_fails_alone(model: Path, tmp_path: Path) -> None:
    inner = plain_trainer(model, common_arguments(tmp_path / "inner", gradient_accumulation_steps=1), [])
    failing_at(inner, 2)
    inner_callback = SparsityCallback(None, "inner").attach(inner)

    class TrainsAnother(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                with pytest.raises(RuntimeError):
                    inner.train()

    arguments = common_arguments(tmp_path / "outer", gradient_accumulation_steps=1)
    outer = plain_trainer(model, arguments, [TrainsAnother()])
    outer_callback = SparsityCallback(None, "outer").attach(outer)
    outer.train()
    assert ends_of(inner_callback) == [(pb.Finish.ENDING_FAILED, "RuntimeError: CUDA out of memory.")]
    assert ends_of(outer_callback) == [(pb.Finish.ENDING_COMPLETED, "")]
    assert len(spooled(outer_callback, "observation")) == 4
