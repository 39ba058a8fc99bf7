"""A training that was left is told from one that goes on, in whatever loop it trains."""

from __future__ import annotations

import copy
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback

from monitor import SparsityCallback
from monitor.report.spool.items import Spool
from monitor.training import under_way as module
from monitor.training.observed_run import ObservedRun
from monitor.training.under_way import LEFT, Training, under_way
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.processes import Processes
from tests.spooled import recorded_in, spooled
from tests.tiny import common_arguments, plain_trainer, save_model


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.02)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


class At(TrainerCallback):  # type: ignore[misc]
    """Does something at the end of step 2."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            self.act()


def fail() -> None:
    raise RuntimeError("CUDA out of memory")


def trainer_of(model: Path, directory: Path, *callbacks: Any) -> Trainer:
    return plain_trainer(model, common_arguments(directory, gradient_accumulation_steps=1), list(callbacks))


def ends_of(callback: SparsityCallback) -> list[tuple[int, str]]:
    return [(finish.ending, finish.reason) for finish in spooled(callback, "finish")]


def test_a_training_that_was_left_is_ended_soon_although_its_trainer_is_there(model: Path, tmp_path: Path) -> None:
    callback = SparsityCallback(None, "left")
    trainer = trainer_of(model, tmp_path, callback, At(fail))
    with suppress(RuntimeError):
        trainer.train()
    eventually(lambda: not under_way.reporters())
    assert ends_of(callback) == [(pb.Finish.ENDING_FAILED, LEFT)]
    assert [observation.step for observation in spooled(callback, "observation")] == [1, 2]
    # The same trainer goes on to train, as the next attempt.
    trainer.remove_callback(At)
    trainer.train()
    assert ends_of(callback)[1:] == [(pb.Finish.ENDING_COMPLETED, "")]


def test_a_training_that_waits_for_long_goes_on(model: Path, tmp_path: Path) -> None:
    looked = threading.Event()
    callback = SparsityCallback(None, "waits")
    suspects = iter(range(20))

    def was_left(training: Training) -> bool:
        if next(suspects, None) is None:
            looked.set()
        return original(training)

    original = Training.was_left
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Training, "was_left", was_left)
        trainer_of(model, tmp_path, callback, At(lambda: looked.wait(60))).train()
    assert ends_of(callback) == [(pb.Finish.ENDING_COMPLETED, "")]


def test_trainings_in_threads_end_apart(model: Path, tmp_path: Path) -> None:
    other_failed = threading.Event()
    good, bad = SparsityCallback(None, "good"), SparsityCallback(None, "bad")
    failing = trainer_of(model, tmp_path / "bad", bad, At(fail))
    waiting = trainer_of(model, tmp_path / "good", good, At(lambda: other_failed.wait(60)))
    thread = threading.Thread(target=waiting.train)
    thread.start()
    with suppress(RuntimeError):
        failing.train()
    eventually(lambda: bool(ends_of(bad)))
    other_failed.set()
    thread.join()
    assert ends_of(bad) == [(pb.Finish.ENDING_FAILED, LEFT)]
    assert ends_of(good) == [(pb.Finish.ENDING_COMPLETED, "")]


def test_the_next_training_ends_the_one_that_was_left_with_the_exception_that_is_handled(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 3600)
    first, second = SparsityCallback(None, "first"), SparsityCallback(None, "second")
    try:
        trainer_of(model, tmp_path / "1", first, At(fail)).train()
    except RuntimeError:
        trainer_of(model, tmp_path / "2", second).train()
    assert ends_of(first) == [(pb.Finish.ENDING_FAILED, "RuntimeError: CUDA out of memory")]
    assert ends_of(second) == [(pb.Finish.ENDING_COMPLETED, "")]


class Loop:
    """A loop of somebody's own around the events of a Trainer's callbacks, which goes on between its calls."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.state, self.control = trainer.state, trainer.control
        self.state.max_steps = 4

    def event(self, name: str) -> None:
        getattr(self.trainer.callback_handler, name)(self.trainer.args, self.state, self.control)

    def begin(self) -> None:
        self.event("on_train_begin")

    def step(self) -> None:
        self.event("on_step_begin")
        self.state.global_step += 1
        self.event("on_step_end")

    def steps(self) -> Iterator[int]:
        self.begin()
        while self.state.global_step < 4:
            self.step()
            yield self.state.global_step
        self.event("on_train_end")


@contextmanager
def many_looks() -> Iterator[None]:
    """Let the thread that looks after trainings look many times meanwhile."""
    looks = iter(range(10))
    done = threading.Event()
    was_left = Training.was_left

    def counted(training: Training) -> bool:
        if next(looks, None) is None:
            done.set()
        return was_left(training)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Training, "was_left", counted)
        yield
        assert done.wait(60)


@pytest.mark.parametrize("as_generator", [False, True])
def test_a_loop_that_comes_and_goes_is_not_taken_for_one_that_was_left(
    model: Path, tmp_path: Path, as_generator: bool
) -> None:
    callback = SparsityCallback(None, "own loop")
    loop = Loop(trainer_of(model, tmp_path, callback))
    if as_generator:
        steps = loop.steps()
        next(steps)
        with many_looks():
            pass
        list(steps)
    else:
        loop.begin()
        for _ in range(4):
            with many_looks():
                pass
            loop.step()
        loop.event("on_train_end")
    assert ends_of(callback) == [(pb.Finish.ENDING_COMPLETED, "")]


def test_another_call_at_the_address_of_the_first_is_not_taken_for_the_loop() -> None:
    """Python gives the memory of a frame that is gone to the next one."""

    class State:
        pass

    class Calls:
        def __init__(self) -> None:
            self.state = State()

        def begin_or_go_on(self, training: Training | None) -> tuple[Training, int]:
            # Never in a variable: the frame would keep itself alive.
            if training is None:
                return Training(self.state, sys._getframe()), id(sys._getframe())
            training.see_step(sys._getframe())
            return training, id(sys._getframe())

    calls = Calls()
    for _ in range(1000):
        training, begun_in = calls.begin_or_go_on(None)
        # As the thread does that looks: what it holds of the first call is let go.
        assert not training.was_left()
        _, went_on_in = calls.begin_or_go_on(training)
        assert not training.was_left()
        assert not training.has_the_loop_of(calls.begin_or_go_on(None)[0])
        if begun_in == went_on_in:
            return
    pytest.skip("in this process, Python gave the memory of a frame that is gone to something else each time")


def test_a_loop_that_replaces_its_state_goes_on(model: Path, tmp_path: Path) -> None:
    callback = SparsityCallback(None, "another state")
    loop = Loop(trainer_of(model, tmp_path, callback))
    loop.begin()
    loop.step()
    loop.state = loop.trainer.state = copy.copy(loop.state)
    gc.collect()
    with many_looks():
        pass
    for _ in range(3):
        loop.step()
    loop.event("on_train_end")
    assert ends_of(callback) == [(pb.Finish.ENDING_COMPLETED, "")]


def test_a_training_of_several_processes_is_not_ended_by_looking_at_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of them would wait for the counts of this one if it went on after all."""
    look_after = ObservedRun.look_after

    def as_one_of_two(run: ObservedRun, training: Training) -> None:
        assert run._observer is not None
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(run._observer.ranks, "world", 2)
            look_after(run, training)

    monkeypatch.setattr(ObservedRun, "look_after", as_one_of_two)
    callback = SparsityCallback(None, "of two")
    with suppress(RuntimeError):
        trainer_of(model, tmp_path, callback, At(fail)).train()
    with many_looks():
        pass
    assert ends_of(callback) == []
    under_way.end_left()
    assert ends_of(callback) == [(pb.Finish.ENDING_FAILED, LEFT)]


def test_a_loop_of_ones_own_is_ended_when_it_is_garbage(model: Path, tmp_path: Path) -> None:
    callback = SparsityCallback(None, "garbage")
    loop = Loop(trainer_of(model, tmp_path, callback))
    loop.begin()
    loop.step()
    directory = callback.directory
    # The callback has the model, as long as it observes.
    del loop, callback
    gc.collect()
    eventually(lambda: not under_way.reporters())
    with closing(Spool(directory)) as spool:
        (attempt,) = spool.attempts()
        items = [pb.Item.FromString(item) for _, item in spool.unsent(attempt.key, 0, 99)]
    assert [item.finish.reason for item in items if item.HasField("finish")] == [LEFT]


_FORKS = """
import os
from monitor import SparsityCallback
from monitor.training.under_way import under_way
from tests.training.trained import At, trainer

callback = SparsityCallback(None, "forks")

def fork():
    if (child := os.fork()) == 0:
        # As where a child leaves by an exception that it catches.
        callback._training_failed(RuntimeError("in the child"))
        os._exit(len(under_way.reporters()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

trains = trainer(At(2, fork))
callback.attach(trains)
trains.train()
"""


@pytest.mark.xdist_group("training processes")
def test_a_forked_child_ends_nothing(processes: Processes, model: Path, tmp_path: Path) -> None:
    ended = processes.run(_FORKS, MODEL=str(model), OUTPUT=str(tmp_path))
    assert ended.status == 0, ended.written[-4000:]
    assert [(finish.ending, finish.reason) for finish in recorded_in(tmp_path, "finish")] == [
        (pb.Finish.ENDING_COMPLETED, "")
    ]


class Notebook(ModuleType):
    """IPython as far as it is used: events by name, of which each cell has some."""

    def __init__(self) -> None:
        super().__init__("IPython")
        self.functions: list[Callable[[Any], None]] = []
        self.events = SimpleNamespace(register=self._register, unregister=self._unregister)

    def get_ipython(self) -> Notebook:
        return self

    def _register(self, event: str, function: Callable[[Any], None]) -> None:
        assert event == "post_run_cell"
        self.functions.append(function)

    def _unregister(self, event: str, function: Callable[[Any], None]) -> None:
        self.functions.remove(function)

    def run_cell(self, cell: Callable[[], object]) -> None:
        error = None
        try:
            cell()
        except BaseException as raised:  # noqa: BLE001 - as IPython does
            error = raised
        for function in list(self.functions):
            function(SimpleNamespace(error_in_exec=error))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("CUDA out of memory")], ids=repr)
def test_a_cell_that_raises_ends_its_run_at_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 3600)
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", notebook)

    def act() -> None:
        raise error

    callback = SparsityCallback(None, "cell")
    notebook.run_cell(trainer_of(model, tmp_path, callback, At(act)).train)
    reason = "KeyboardInterrupt" if isinstance(error, KeyboardInterrupt) else "RuntimeError: CUDA out of memory"
    assert ends_of(callback) == [(pb.Finish.ENDING_FAILED, reason)]
    assert not notebook.functions


def test_a_cell_that_raises_ends_no_training_in_a_thread(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    trains, may_go_on = threading.Event(), threading.Event()
    callback = SparsityCallback(None, "background")

    def wait() -> None:
        trains.set()
        may_go_on.wait(60)

    thread = threading.Thread(target=trainer_of(model, tmp_path, callback, At(wait)).train)
    thread.start()
    assert trains.wait(60)
    notebook.run_cell(fail)
    may_go_on.set()
    thread.join()
    assert ends_of(callback) == [(pb.Finish.ENDING_COMPLETED, "")]
    assert not notebook.functions
