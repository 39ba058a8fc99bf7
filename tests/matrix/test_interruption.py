"""Trainings that are killed, stopped, resumed elsewhere, and started again."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import Qwen2ForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from monitor import Observation, SparsityCallback, UpdateMask
from monitor.report.spool.items import Spool
from tests.counting import bfloat16_bits, changed_by_group
from tests.eventually import eventually
from tests.matrix.killed import SAVE_STEPS, STEPS, make_trainer
from tests.matrix.runs import counts, recording
from tests.parallel.trainings import train_together
from tests.processes import Processes
from tests.service.running import Client, service_in_thread
from tests.tiny import common_arguments, sft_trainer, token_data


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


def observed_steps(client: Client, run_id: str) -> list[tuple[int, int]]:
    """(attempt, step) of every observation that the service shows of a run."""
    history = client.history(run_id)
    return [(entry.attempt, entry.item.observation.step) for entry in history if entry.item.HasField("observation")]


def assert_same_counts(observed: Observation, expected: Observation) -> None:
    assert expected.changed.sum() > 0
    for name in ("changed", "touched", "step_changed", "hidden"):
        assert getattr(observed, name).tolist() == getattr(expected, name).tolist(), name


@pytest.mark.xdist_group("training processes")
def test_a_killed_training_goes_on_from_its_checkpoint(
    processes: Processes, model: Path, client: Client, tmp_path: Path
) -> None:
    """Killed two steps after the checkpoint: those are superseded, nothing is doubled, and the end is the same."""
    target = client.listening.grpc_address
    code = "from tests.matrix.killed import train_until_killed; train_until_killed()"
    where = {"MODEL": str(model), "OUTPUT": str(tmp_path / "out"), "TARGET": target}
    killed = processes.run(code, **where, STEP=str(SAVE_STEPS + 2))
    assert killed.status == -signal.SIGKILL, killed.written
    spool = Spool(tmp_path / "out" / "sparsity_monitor")
    (attempt,) = spool.attempts()
    run_id = attempt.key.run_id
    # The uploader outlives the training, and says at the end that it is gone.
    eventually(lambda: client.is_over(run_id))
    assert (1, SAVE_STEPS + 1) in observed_steps(client, run_id)

    second = SparsityCallback(target, "killed")
    trainer = make_trainer(model, tmp_path / "out", [second])
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{SAVE_STEPS}"))
    assert second.run_id == run_id
    first_half = [(1, step) for step in range(1, SAVE_STEPS + 1)]
    second_half = [(2, step) for step in range(SAVE_STEPS + 1, STEPS + 1)]
    eventually(lambda: client.is_over(run_id) and client.run(run_id).registration.attempt == 2)
    assert observed_steps(client, run_id) == first_half + second_half

    uninterrupted = recording()
    make_trainer(model, tmp_path / "whole", [uninterrupted]).train()
    assert_same_counts(second.last_observation, uninterrupted.last_observation)


def touched_in_checkpoints(model: Path, checkpoints: list[Path]) -> int:
    """Count the weights that differ between any two checkpoints in turn, by none of the package's code."""
    states = [bfloat16_bits(directory) for directory in [model, *checkpoints]]
    return sum(int(np.any([a[name] != b[name] for a, b in pairwise(states)], axis=0).sum()) for name in states[0])


@pytest.mark.xdist_group("parallel")
@pytest.mark.parametrize(("how", "world", "then_world"), [("ddp", 2, 1), ("ddp", 1, 2), ("fsdp2", 2, 3)])
def test_resumed_with_another_number_of_processes(
    how: str, world: int, then_world: int, model: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"save_steps": 1, "learning_rate": 2e-5}
    first = train_together(world, how, str(model), str(tmp_path), max_steps=2, **settings)
    checkpoint = str(tmp_path / "checkpoint-2")
    results = train_together(then_world, how, str(model), str(tmp_path), max_steps=4, resume=checkpoint, **settings)
    last = results[0]["last"]
    assert (last.step, last.stride, results[0]["run_id"]) == (4, 1, first[0]["run_id"])
    assert counts(last) == changed_by_group(model, tmp_path / "final")
    checkpoints = [tmp_path / f"checkpoint-{step}" for step in range(1, 5)]
    assert last.touched.sum() == touched_in_checkpoints(model, checkpoints) > last.changed.sum() > 0


@pytest.mark.xdist_group("parallel")
def test_processes_that_branch_from_a_run_observe_together(model: Path, tmp_path: Path) -> None:
    """The first one decides for all: a branch may be measured otherwise."""
    run, branch = tmp_path / "run", tmp_path / "branch"
    first = train_together(2, "ddp", str(model), str(run), max_steps=2, save_steps=2)
    settings: dict[str, Any] = {"resume": str(run / "checkpoint-2"), "callback": {"criterion": "atol=1e-3"}}
    results = train_together(2, "ddp", str(model), str(branch), max_steps=3, **settings)
    assert results[0]["run_id"] not in (None, first[0]["run_id"])
    changed = [result["last"].changed.tolist() for result in results]
    assert changed[0] == changed[1]
    assert 0 < sum(changed[0]) < first[0]["last"].changed.sum()


@pytest.mark.xdist_group("parallel")
def test_processes_resumed_end_where_uninterrupted_ones_do(model: Path, tmp_path: Path) -> None:
    whole, resumed, alone = (tmp_path / name for name in ("whole", "resumed", "alone"))
    uninterrupted = train_together(2, "ddp", str(model), str(whole), save_steps=2)
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    settings: dict[str, Any] = {"save_steps": 2, "resume": str(resumed / "checkpoint-2")}
    results = train_together(2, "ddp", str(model), str(resumed), **settings)
    for result in results:
        assert_same_counts(result["last"], uninterrupted[0]["last"])
    masks = [UpdateMask.load(path / "sparsity_monitor" / "update_mask.safetensors") for path in (whole, resumed)]
    assert (masks[0] ^ masks[1]).count() == 0

    unmonitored = train_together(2, "ddp", str(model), str(alone), save_steps=2, monitored=False)
    assert len(unmonitored[0]["losses"]) == 4
    assert [result["losses"] for result in unmonitored] == [result["losses"] for result in uninterrupted]


def saving_trainer(model: Path, output: Path, callback: SparsityCallback, **changes: Any) -> Trainer:
    settings = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-4} | changes
    return sft_trainer(model, common_arguments(output, **settings), [callback])


def test_touched_weights_of_another_run_in_the_output_directory_are_left_alone(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, resumed = recording(), recording()
    saving_trainer(model, tmp_path / "own", whole).train()
    saving_trainer(model, tmp_path / "other", recording(), learning_rate=3e-3).train()
    checkpoint = str(tmp_path / "own" / "checkpoint-2")
    saving_trainer(model, tmp_path / "other", resumed).train(resume_from_checkpoint=checkpoint)
    assert_same_counts(resumed.last_observation, whole.last_observation)
    assert "no touched weights" not in caplog.text

    # Where the run began, its checkpoint is no more.
    checkpoint = str((tmp_path / "own" / "checkpoint-2").rename(tmp_path / "kept"))
    saving_trainer(model, tmp_path / "other", resumed).train(resume_from_checkpoint=checkpoint)
    assert 0 < resumed.last_observation.touched.sum() <= whole.last_observation.touched.sum()
    assert "no touched weights that this run saved at step 2 were found in" in caplog.text
    assert "name it as resume_from_checkpoint in the training arguments" in caplog.text

    # As the warning says.
    again = recording()
    trainer = saving_trainer(model, tmp_path / "fresh", again, resume_from_checkpoint=checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert_same_counts(again.last_observation, whole.last_observation)


class SavesElsewhere(Trainer):
    """Saves where a hyperparameter search does."""

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(self.args.output_dir) / "run-0")


def test_no_checkpoint_is_made_where_the_trainer_saved_none(model: Path, tmp_path: Path) -> None:
    arguments = TrainingArguments(**common_arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=1))
    pretrained = Qwen2ForCausalLM.from_pretrained(model, dtype="float32")
    SavesElsewhere(pretrained, arguments, train_dataset=token_data(), callbacks=[recording(strict=True)]).train()
    assert get_last_checkpoint(str(tmp_path / "run-0")) == str(tmp_path / "run-0" / "checkpoint-2")
    assert get_last_checkpoint(str(tmp_path)) is None


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def test_a_training_that_is_stopped_early_is_finished(model: Path, client: Client, tmp_path: Path) -> None:
    callback = SparsityCallback(client.listening.grpc_address, "stopped", every=2)
    trainer = sft_trainer(model, common_arguments(tmp_path / "out", learning_rate=1e-4), [callback, StopAt(3)])
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    eventually(lambda: client.is_over(callback.run_id))
    assert observed_steps(client, callback.run_id) == [(1, 2), (1, 3)]
    expected = changed_by_group(model, tmp_path / "final")
    assert counts(callback.last_observation) == expected
    assert UpdateMask.load(callback.directory / "update_mask.safetensors").count() == sum(expected.values()) > 0
    finishes = [entry.item.finish for entry in client.history(callback.run_id) if entry.item.HasField("finish")]
    assert [finish.step for finish in finishes] == [3]


def test_the_base_is_the_model_that_model_init_makes_when_training_starts(model: Path, tmp_path: Path) -> None:
    made: list[Qwen2ForCausalLM] = []

    def model_init() -> Qwen2ForCausalLM:
        made.append(Qwen2ForCausalLM.from_pretrained(model, dtype="float32"))
        return made[-1]

    callback = recording()
    arguments = TrainingArguments(**common_arguments(tmp_path / "out", learning_rate=1e-4))
    trainer = Trainer(model_init=model_init, args=arguments, train_dataset=token_data(), callbacks=[callback])
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert len(made) > 1
    expected = changed_by_group(model, tmp_path / "final")
    assert counts(callback.last_observation) == expected
    assert sum(expected.values()) > 0


def test_an_output_directory_that_is_used_again_starts_a_run_of_its_own(
    model: Path, client: Client, tmp_path: Path
) -> None:
    arguments = common_arguments(tmp_path / "out", max_steps=2, learning_rate=1e-4)
    # Nobody was told of the first one.
    first, second = recording(), SparsityCallback(client.listening.grpc_address, "again")
    for callback in (first, second):
        sft_trainer(model, arguments, [callback]).train()
    assert first.run_id != second.run_id
    eventually(lambda: client.is_over(first.run_id) and client.is_over(second.run_id))
    assert observed_steps(client, first.run_id) == observed_steps(client, second.run_id) == [(1, 1), (1, 2)]
    names = {run_id: client.run(run_id).registration.name for run_id in (first.run_id, second.run_id)}
    assert names == {first.run_id: "matrix", second.run_id: "again"}
