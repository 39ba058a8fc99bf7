"""Callbacks and trainers that are pickled, copied, sent to other processes or forked: before, in, after a training."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import GradientState
from transformers import Trainer, TrainerCallback

from monitor import MaskFile, SparsityCallback, UpdateMask
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.items import Spool
from monitor.wire import monitor_pb2 as pb
from tests.processes import Processes
from tests.tiny import common_arguments, plain_trainer, save_model
from tests.training.events import InTheMiddle, call_every_event

STEPS = 3


def _by_pickle(given: Any) -> Any:
    return pickle.loads(pickle.dumps(given))


def _by_cloudpickle(given: Any) -> Any:
    # The one that numba carries. As Ray does: a function that holds it, sent by value.
    cloudpickle = pytest.importorskip("numba.cloudpickle")
    return pickle.loads(cloudpickle.dumps(lambda: given))()


WAYS = {"pickle": _by_pickle, "cloudpickle": _by_cloudpickle, "copy": copy.copy, "deepcopy": copy.deepcopy}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _forgotten_trainings() -> None:
    """Accelerate keeps references to the data loaders of the process's trainings, which no trainer pickles with."""
    GradientState._reset_state()


def _trainer(model: Path, output: Path, callbacks: list[Any]) -> Trainer:
    return plain_trainer(model, common_arguments(output, max_steps=STEPS, gradient_accumulation_steps=1), callbacks)


def _reported(directory: Path) -> list[tuple[list[int], int]]:
    """Of each attempt in a spool: the steps that were observed, and the outcome."""
    with closing(Spool(directory)) as spool:
        return [_items(spool, attempt.key) for attempt in spool.attempts()]


def _items(spool: Spool, key: AttemptKey) -> tuple[list[int], int]:
    items = [pb.Item.FromString(item) for _, item in spool.unsent(key, 0, 1000)]
    steps = [item.observation.step for item in items if item.HasField("observation")]
    (outcome,) = [item.finish.outcome for item in items if item.HasField("finish")]
    return steps, outcome


FINISHED_RUN = ([1, 2, 3], pb.Finish.OUTCOME_FINISHED)


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_made_before_training_trains_as_the_callback_would(way: str, model: Path, tmp_path: Path) -> None:
    given = SparsityCallback(None, "copied", tolerances=[1e-6], labels={"seed": "0"}, on_dense="stop", base=str(model))
    copied = WAYS[way](given)
    assert copied is not given
    assert {
        name: getattr(copied.settings, name) for name in ("run_name", "tolerances", "labels", "on_dense", "base")
    } == {name: getattr(given.settings, name) for name in ("run_name", "tolerances", "labels", "on_dense", "base")}
    _trainer(model, tmp_path, [copied]).train()
    assert copied.last_observation.step == STEPS
    assert given.last_observation is None
    assert _reported(copied.directory) == [FINISHED_RUN]


def _ignore(*_: object, **__: object) -> None:
    """An answer to dense updates that pickles: a function of a module."""


@pytest.mark.parametrize("way", WAYS)
def test_settings_of_every_kind_are_copied(way: str, model: Path, tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    mask = UpdateMask.from_bools({"w": torch.tensor([True, False])})
    mask.save(tmp_path / "mask.safetensors")
    references = {"path": tmp_path / "mask.safetensors", "file": MaskFile(tmp_path / "mask.safetensors"), "mask": mask}
    for base in (str(model), model, module, module.state_dict()):
        copied = WAYS[way](SparsityCallback(None, base=base, references=references, on_dense=_ignore)).settings
        assert copied.on_dense is _ignore
        assert {type(each) for each in copied.references.values()} == {type(each) for each in references.values()}
        if isinstance(base, str | Path):
            assert copied.base == base
        else:
            weights = copied.base if isinstance(copied.base, Mapping) else copied.base.state_dict()
            assert torch.equal(weights["weight"], module.weight)
    references["file"].close()


def test_a_copy_of_a_callback_whose_training_is_over_can_train(model: Path, tmp_path: Path) -> None:
    given = SparsityCallback(None).attach(_trainer(model, tmp_path / "first", []))
    given._trainer.train()
    copied = _by_pickle(given)
    _trainer(model, tmp_path / "second", [copied]).train()
    assert _reported(tmp_path / "second" / "sparsity_monitor") == [FINISHED_RUN]


@pytest.mark.parametrize("way", ["pickle", "cloudpickle", "deepcopy"])
def test_a_trainer_still_copies_after_attach_and_its_copy_shows_the_sparsities(
    way: str, model: Path, tmp_path: Path
) -> None:
    trainer = _trainer(model, tmp_path, [])
    given = SparsityCallback(None).attach(trainer)
    other = WAYS[way](trainer)
    other.add_callback(TrainerCallback)
    other.train()
    logged = [entry for entry in other.state.log_history if "loss" in entry]
    assert len(logged) == STEPS
    assert all("sparsity/cumulative_sparsity" in entry for entry in logged)
    # The last one, as attach promises.
    assert isinstance(other.callback_handler.callbacks[-1], SparsityCallback)
    assert given.last_observation is None
    assert not any("sparsity/cumulative_sparsity" in entry for entry in trainer.state.log_history)


# Started before there is a callback: it comes by pickle.
_SENT = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from monitor import SparsityCallback
from tests.training.trained import trained_with
with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as workers:
    workers.submit(int).result(timeout=300)
    print(workers.submit(trained_with, SparsityCallback(None, "in a worker")).result(timeout=300))
"""


@pytest.mark.xdist_group("training processes")
def test_a_callback_sent_to_a_worker_before_training_trains_there(
    processes: Processes, model: Path, tmp_path: Path
) -> None:
    ended = processes.run(_SENT, MODEL=str(model), OUTPUT=str(tmp_path))
    assert str((STEPS, True)) in ended.written.splitlines()
    assert _reported(tmp_path / "sparsity_monitor") == [FINISHED_RUN]


def _losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_made_while_training_does_nothing(
    way: str, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = SparsityCallback(None, strict=True)
    made: list[SparsityCallback] = []

    def copy_and_call(event: dict[str, Any]) -> None:
        threads, files = threading.active_count(), set(tmp_path.rglob("*"))
        made.append(WAYS[way](given))
        call_every_event(made[0], event)
        assert threading.active_count() == threads
        assert {file.name for file in set(tmp_path.rglob("*")) - files} <= {"spool.sqlite-journal"}

    trainer = _trainer(model, tmp_path, [given, InTheMiddle(copy_and_call)])
    with caplog.at_level(logging.WARNING, "monitor"):
        trainer.train()
    (copied,) = made
    assert copied.last_observation is None
    assert copied.run_id is None
    assert _reported(given.directory) == [FINISHED_RUN]
    assert "is a copy of one that was observing another" in caplog.text
    assert "an error in sparsity-monitor" not in caplog.text
    bare = _trainer(model, tmp_path / "bare", [])
    bare.train()
    assert _losses(trainer) == _losses(bare)
    # A copy of a copy, after the end, too.
    call_every_event(_by_pickle(copied), {"args": trainer.args, "state": trainer.state, "control": trainer.control})


def test_a_copy_made_while_training_takes_no_weights_and_no_functions_along(model: Path, tmp_path: Path) -> None:
    """It would take minutes to send them, and a worker that is spawned could not even start with a lambda."""
    base = _trainer(model, tmp_path, []).model.state_dict()
    given = SparsityCallback(None, base=base, on_dense=lambda *_, **__: None)
    sizes: list[int] = []
    trainer = _trainer(model, tmp_path, [given, InTheMiddle(lambda _: sizes.append(len(pickle.dumps(given))))])
    trainer.train()
    assert sizes[0] < 10_000


_FORKS = """
import os, pickle, warnings
from monitor import SparsityCallback
from tests.training.events import InTheMiddle, call_every_event
from tests.training.trained import trainer

given = SparsityCallback(None, strict=True)

def fork_and_call(event):
    with warnings.catch_warnings():
        # From Python 3.12 on, of a fork beside threads, which is what this is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            call_every_event(given, event)
            call_every_event(pickle.loads(pickle.dumps(given)), event)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

trainer(given, InTheMiddle(fork_and_call), max_steps=3).train()
"""


@pytest.mark.xdist_group("training processes")
def test_a_forked_child_leaves_the_run_alone(processes: Processes, model: Path, tmp_path: Path) -> None:
    ended = processes.run(_FORKS, MODEL=str(model), OUTPUT=str(tmp_path))
    assert ended.status == 0, ended.written[-4000:]
    assert _reported(tmp_path / "sparsity_monitor") == [FINISHED_RUN]


# Started for each training: what it needs of the callback comes with the data.
_WORKERS = """
import multiprocessing
from monitor import SparsityCallback
from tests.tiny import token_data
from tests.training.trained import RowsOfATrainer, trainer
multiprocessing.set_start_method({method!r})
made = trainer(max_steps=3, dataloader_num_workers=1)
callback = SparsityCallback(None, strict=True, on_dense=lambda *_, **__: None).attach(made)
made.train_dataset = RowsOfATrainer(token_data(), callback)
made.train()
"""


@pytest.mark.xdist_group("training processes")
@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_workers_of_a_data_loader_that_get_the_callback_leave_the_run_alone(
    start_method: str, processes: Processes, model: Path, tmp_path: Path
) -> None:
    ended = processes.run(_WORKERS.format(method=start_method), MODEL=str(model), OUTPUT=str(tmp_path))
    assert ended.status == 0, ended.written[-4000:]
    assert _reported(tmp_path / "sparsity_monitor") == [FINISHED_RUN]
