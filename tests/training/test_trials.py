"""Several trainings of one script: trials of a hyperparameter search, and trainings in one output directory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2ForCausalLM, Trainer, TrainingArguments

from monitor import SparsityCallback, UpdateMask
from monitor.report.spool.items import Spool
from monitor.training.trials import Trial
from monitor.wire import monitor_pb2 as pb
from tests.processes import Processes
from tests.tiny import common_arguments, plain_trainer, save_model, token_data

MASK = "update_mask.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def searching_trainer(model: Path, output: Path, callback: SparsityCallback, **changes: Any) -> Trainer:
    arguments = TrainingArguments(**common_arguments(output, max_steps=1, **changes))
    return Trainer(
        model_init=lambda: Qwen2ForCausalLM.from_pretrained(model, dtype="float32"),
        args=arguments,
        train_dataset=token_data(),
        callbacks=[callback],
    )


def registrations(directory: Path) -> list[pb.Registration]:
    spool = Spool(directory)
    found = [pb.Registration.FromString(attempt.registration) for attempt in spool.attempts()]
    spool.close()
    return found


@pytest.mark.parametrize("run_id", [None, "search"])
def test_each_trial_is_a_run_of_its_own_with_its_own_mask(model: Path, tmp_path: Path, run_id: str | None) -> None:
    callback = SparsityCallback(None, run_id=run_id, labels={"algorithm": "SFT"})
    trainer = searching_trainer(model, tmp_path / "out", callback)
    seen = []
    for rate in (1e-4, 1e-3):
        trainer.train(trial={"learning_rate": rate, "seed": 7})
        seen.append((callback.run_id, callback.directory, callback.last_observation.changed.sum()))
    for number, (found, directory, changed) in enumerate(seen):
        assert directory == tmp_path / "out" / "sparsity_monitor" / f"trial-{number}"
        (registration,) = registrations(directory)
        assert registration.run_id == found
        assert registration.name == f"out trial {number}"
        rate = ("0.0001", "0.001")[number]
        assert registration.labels == {"algorithm": "SFT", "trial": str(number), "learning_rate": rate, "seed": "7"}
        mask = UpdateMask.load(directory / MASK)
        assert (mask.metadata.run_id, mask.count()) == (found, changed)
        assert run_id is None or found == f"search-trial-{number}"
    assert seen[0][0] != seen[1][0]


def test_a_trial_is_called_as_the_search_calls_it(model: Path, tmp_path: Path) -> None:
    callback = SparsityCallback(None, "tuned")
    trainer = searching_trainer(model, tmp_path, callback)
    trainer.hp_name = lambda trial: f"rate {trial['learning_rate']}"
    trainer.train(trial={"learning_rate": 1e-4})
    assert [each.name for each in registrations(callback.directory)] == ["tuned trial 0 rate 0.0001"]


class NumberedTrial(dict[str, Any]):
    """As of a search that goes on where an earlier one stopped."""

    number = 12


def test_a_trial_has_the_searchs_own_number_where_the_trainer_is_known(model: Path, tmp_path: Path) -> None:
    callback = SparsityCallback(None, "tuned")
    trainer = searching_trainer(model, tmp_path, callback)
    trainer.remove_callback(callback)
    callback.attach(trainer)
    trainer.train(trial=NumberedTrial(learning_rate=1e-4))
    assert [each.name for each in registrations(callback.directory)] == ["tuned trial 12"]
    trainer.train()
    assert callback.directory == tmp_path / "sparsity_monitor"


def test_a_search_with_optuna_has_a_run_for_each_trial(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    callback = SparsityCallback(None)
    trainer = searching_trainer(model, tmp_path, callback, save_strategy="steps", save_steps=1)
    trainer.eval_dataset = token_data(rows=4)
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-4])},
        n_trials=2,
        backend="optuna",
    )
    for number in range(2):
        directory = tmp_path / "sparsity_monitor" / f"trial-{number}"
        (registration,) = registrations(directory)
        assert registration.labels["learning_rate"] == "0.0001"
        assert UpdateMask.load(directory / MASK).metadata.run_id == registration.run_id
        assert (tmp_path / f"run-{number}" / "checkpoint-1").is_dir()


_SEARCHES = """
import multiprocessing, os
from pathlib import Path
from tests.training.trained import trial_number
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(sorted(pool.map(trial_number, [Path(os.environ["OUTPUT"])] * 20, chunksize=1)))
"""


@pytest.mark.xdist_group("training processes")
def test_searches_at_once_in_one_directory_number_their_trials_apart(processes: Processes) -> None:
    assert str([*range(20)]) in processes.run(_SEARCHES).written.splitlines()


def test_parameters_are_labels_as_far_as_a_service_takes_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parameters = {f"parameter {number}": number for number in range(40)} | {"long": "x" * 1000}
    given = {"seed": "1", "parameter 0": "mine"}
    labels = Trial(3, "", dict(reversed(parameters.items())), tmp_path).labelled(given)
    assert len(labels) == 32
    assert labels.items() >= given.items()
    assert labels["trial"] == "3"
    assert labels["long"] == "x" * 511 + "…"
    assert "parameters of trial 3 are no labels, as a run has at most 32" in caplog.text
    assert "parameter 1," in caplog.text


def trainings_of_one_trainer(model: Path, output: Path) -> list[tuple[str | None, int]]:
    callback = SparsityCallback(None)
    trainer = plain_trainer(model, common_arguments(output, max_steps=1, learning_rate=1e-3), [callback])
    seen = []
    for _ in range(3):
        trainer.train()
        seen.append((callback.run_id, int(callback.kept.changed.sum())))
    return seen


def trainers_of_one_script(model: Path, output: Path) -> list[tuple[str | None, int]]:
    seen = []
    for rate in (1e-3, 1e-4, 1e-5):
        callback = SparsityCallback(None)
        plain_trainer(model, common_arguments(output, max_steps=1, learning_rate=rate), [callback]).train()
        seen.append((callback.run_id, int(callback.kept.changed.sum())))
    return seen


@pytest.mark.parametrize("train", [trainings_of_one_trainer, trainers_of_one_script])
def test_no_mask_replaces_that_of_another_run(
    train: Any, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="monitor")
    *earlier, (last, changed) = train(model, tmp_path)
    directory = tmp_path / "sparsity_monitor"
    kept = {(last, changed): MASK} | {(run, count): f"update_mask-{run}.safetensors" for run, count in earlier}
    assert sorted(path.name for path in directory.glob("*.safetensors")) == sorted(kept.values())
    for (run, count), name in kept.items():
        mask = UpdateMask.load(directory / name)
        assert (mask.metadata.run_id, mask.count()) == (run, count)
    assert f"the mask that run {earlier[0][0]} left in {directory} is now update_mask-{earlier[0][0]}" in caplog.text


def test_a_run_that_is_resumed_replaces_its_own_mask(model: Path, tmp_path: Path) -> None:
    arguments = common_arguments(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    plain_trainer(model, arguments, [SparsityCallback(None)]).train()
    resumed = SparsityCallback(None)
    plain_trainer(model, arguments | {"max_steps": 2}, [resumed]).train(resume_from_checkpoint=True)
    assert [path.name for path in resumed.directory.glob("*.safetensors")] == [MASK]
    assert UpdateMask.load(resumed.directory / MASK).metadata.step == 2


def test_a_mask_that_cannot_be_moved_is_not_replaced(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("it may not be moved")

    arguments = common_arguments(tmp_path, max_steps=1)
    first = SparsityCallback(None)
    plain_trainer(model, arguments, [first]).train()
    original = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: refuse() if self.name == MASK else original(self, to))
    plain_trainer(model, arguments, [SparsityCallback(None)]).train()
    assert UpdateMask.load(first.directory / MASK).metadata.run_id == first.run_id
    assert "the update mask is not written, as it would replace that of another run" in caplog.text


def test_a_run_that_is_started_again_under_its_id_says_what_becomes_of_the_earlier(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert "starts run mine again" not in caplog.text
        plain_trainer(model, common_arguments(tmp_path, max_steps=1), [SparsityCallback(None, run_id="mine")]).train()
    assert (
        "starts run mine again from its beginning, as run_id says: in the service, this attempt replaces" in caplog.text
    )
