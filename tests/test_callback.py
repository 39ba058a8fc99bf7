from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Trainer, TrainerCallback, TrainingArguments
from trl.experimental.bema_for_ref_model import BEMACallback
from trl.experimental.bema_for_ref_model import DPOTrainer as BemaDPOTrainer

from monitor import SparsityCallback, UpdateMask
from monitor.errors import BaseMismatchError, ConfigurationError, MaskFileError, SpoolError
from monitor.observe.observer import UpdateObserver
from monitor.wire import monitor_pb2 as pb
from tests.counting import bfloat16_bits, changed_by_group
from tests.eventually import eventually
from tests.service.running import Client, service_in_thread
from tests.spooled import attempts, spooled
from tests.tiny import common_arguments, dpo_trainer, end_of_training, grpo_trainer, save_model, sft_trainer


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def recording(**settings: Any) -> SparsityCallback:
    """A callback that reports to nobody; its spool holds what it would have sent."""
    return SparsityCallback(None, "test", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"visible_dtype": "int8"}, "visible_dtype is 'int8'; expected one of bfloat16, float16, float32"),
        ({"criterion": "changed"}, 'criterion is \'changed\'; expected "bits" or "atol=1e-5"'),
        ({"tolerances": [-1.0]}, "a tolerance is -1.0; expected a finite number"),
        ({"every": 0}, "every is 0; it should be greater than or equal to 1"),
        ({"run_id": ""}, "run_id is ''"),
        ({"run_id": "a/b"}, "run_id is 'a/b'; expected printable characters without '/'"),
        ({"run_id": " "}, "run_id is ' '; expected printable characters"),
        ({"run_id": ".."}, "run_id is '..'; expected printable characters"),
        ({"spool_max_bytes": 1}, "spool_max_bytes is 1"),
        ({"labels": ["GRPO"]}, "labels is ['GRPO']; expected {name: value}"),
        ({"references": ["mask.safetensors"]}, "references is ['mask.safetensors']; expected {name: mask file"),
        ({"references": {"earlier": None}}, "references['earlier'] is None; expected an UpdateMask or the path"),
        ({"references": {"": "mask.safetensors"}}, "references has the name ''; expected a text"),
        ({"references": {"low": "lowest:2"}}, "the structural mask 'lowest:2' has the share '2'; expected a number"),
        ({"base": 5}, "base is 5; expected a directory or hub id, a module, or a state dict"),
        ({"include": ["*.bias"]}, "include has '*.bias', which is no regular expression"),
        ({"exclude": "bias"}, "exclude is the string 'bias'"),
    ],
)
def test_a_wrong_setting_is_an_error_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        recording(**settings)
    assert message in str(error.value)


def test_a_malformed_target_is_an_error_at_construction() -> None:
    with pytest.raises(ConfigurationError, match=r'such as "localhost:50051"\. Leave http:// away'):
        SparsityCallback("http://localhost:50051")


def test_a_reference_mask_that_cannot_be_read_is_an_error_at_construction(tmp_path: Path) -> None:
    with pytest.raises(MaskFileError, match="cannot read a mask"):
        recording(references={"earlier": tmp_path / "nothing.safetensors"})


def test_the_final_mask_is_written_and_serves_as_a_reference(model: Path, tmp_path: Path) -> None:
    first = recording()
    trainer = sft_trainer(model, common_arguments(tmp_path / "a"), [first])
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    path = tmp_path / "a" / "sparsity_monitor" / "update_mask.safetensors"
    mask = UpdateMask.load(path)
    before, after = bfloat16_bits(model), bfloat16_bits(tmp_path / "final")
    for name in mask.shapes:
        assert mask.bools(name).reshape(-1).tolist() == (before[name] != after[name]).tolist(), name
    assert (mask.metadata.run_id, mask.metadata.step) == (first.run_id, 4)

    second = recording(references={"first": path})
    sft_trainer(model, common_arguments(tmp_path / "b", seed=1), [second]).train()
    overlap = second.last_observation.overlap("first")
    assert overlap.reference == mask.count()
    assert 0 < overlap.intersection <= min(overlap.changed, overlap.reference)


def test_the_last_step_is_observed_whatever_the_stride(model: Path, tmp_path: Path) -> None:
    callback = recording(every=3)
    sft_trainer(model, common_arguments(tmp_path, max_steps=7), [callback]).train()
    assert [(o.step, o.stride) for o in spooled(callback, "observation")] == [(3, 3), (6, 3), (7, 1)]


def test_a_cost_above_the_bound_widens_the_stride_of_a_training(model: Path, tmp_path: Path) -> None:
    """What the first two observations cost would make up for a millionth of the training's time only much later."""
    within, above = recording(max_overhead=1.0), recording(max_overhead=1e-6)
    for callback, directory in ((within, tmp_path / "a"), (above, tmp_path / "b")):
        sft_trainer(model, common_arguments(directory, max_steps=9), [callback]).train()
    assert [(o.step, o.stride) for o in spooled(within, "observation")] == [(step, 1) for step in range(1, 10)]
    observations = spooled(above, "observation")
    assert [(o.step, o.stride) for o in observations] == [(1, 1), (2, 1), (9, 7)]
    assert 0 < observations[0].device_seconds < observations[0].host_seconds


def test_what_the_trainer_logs_travels_with_the_observations(model: Path, tmp_path: Path) -> None:
    callback = recording()
    trainer = grpo_trainer(model, common_arguments(tmp_path), [callback])
    trainer.train()
    logs = {log.step: log.metrics for log in spooled(callback, "training_log") if "loss" in log.metrics}
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == list(logs) == [1, 2, 3, 4]
    for entry in entries:
        assert logs[entry["step"]]["loss"] == entry["loss"]
        assert {"reward", "learning_rate", "grad_norm"} <= set(logs[entry["step"]])


def test_attach_shows_sparsities_in_the_trainers_own_logs(model: Path, tmp_path: Path) -> None:
    trainer = sft_trainer(model, common_arguments(tmp_path), [])
    callback = recording().attach(trainer)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    assert entries[-1]["sparsity/cumulative_sparsity"] == callback.last_observation.cumulative_sparsity
    assert entries[-1]["sparsity/step_sparsity"] == callback.last_observation.step_sparsity
    # They are not sent back to the service as if they were the trainer's.
    assert not any(name.startswith("sparsity/") for log in spooled(callback, "training_log") for name in log.metrics)


def test_a_frozen_reference_model_is_the_base_without_a_copy(model: Path, tmp_path: Path) -> None:
    alone = recording()
    dpo_trainer(model, common_arguments(tmp_path / "a"), [alone]).train()
    trainer = dpo_trainer(model, common_arguments(tmp_path / "b"), [])
    attached = recording().attach(trainer)
    trainer.train()
    copied, shared = alone.last_observation, attached.last_observation
    assert (copied.base_mode, shared.base_mode) == ("device", "shared")
    # A copy is kept as visible weights, of 2 bytes each.
    assert copied.monitor_bytes - shared.monitor_bytes == 2 * copied.weights
    assert attached.last_observation.changed.tolist() == alone.last_observation.changed.tolist()


def test_a_reference_model_that_follows_the_training_is_no_base(model: Path, tmp_path: Path) -> None:
    arguments = common_arguments(
        tmp_path, sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=1.0, learning_rate=1e-3
    )
    trainer = dpo_trainer(model, arguments, [])
    callback = recording().attach(trainer)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert callback.last_observation.changed.sum() == sum(changed_by_group(model, tmp_path / "final").values()) > 0


def test_a_reference_model_that_a_callback_moves_is_no_base(model: Path, tmp_path: Path) -> None:
    trainer = dpo_trainer(model, common_arguments(tmp_path, learning_rate=1e-3), [], kind=BemaDPOTrainer)
    callback = recording().attach(trainer)
    trainer.add_callback(BEMACallback(update_freq=1, update_ref_model=True, ref_model_update_freq=1))
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert callback.last_observation.changed.sum() == sum(changed_by_group(model, tmp_path / "final").values()) > 0


def train_and_resume(model: Path, output: Path, target: str | None, **settings: Any) -> list[SparsityCallback]:
    """Train to step 4 with a checkpoint at step 2, then resume from step 2 to step 6."""
    arguments = common_arguments(output, save_strategy="steps", save_steps=2, learning_rate=1e-4)
    first, second = SparsityCallback(target, "resumed"), SparsityCallback(target, "resumed", **settings)
    sft_trainer(model, arguments, [first]).train()
    trainer = sft_trainer(model, arguments | {"max_steps": 6}, [second])
    trainer.train(resume_from_checkpoint=str(output / "checkpoint-2"))
    trainer.save_model(str(output / "final"))
    return [first, second]


class SaveAt(TrainerCallback):
    """Asks for a checkpoint where the monitor has looked at `control` already, as the end of an epoch does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = state.global_step == 3


def test_a_checkpoint_between_two_observations_is_observed(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = common_arguments(tmp_path, max_steps=4, learning_rate=1e-4)
    first, second = recording(every=2), recording(every=2)
    sft_trainer(model, arguments, [first, SaveAt()]).train()
    assert [observation.step for observation in spooled(first, "observation")] == [2, 3, 4]
    trainer = sft_trainer(model, arguments, [second])
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert (second.last_observation.step, second.last_observation.stride) == (4, 1)
    for name in ("touched", "step_changed", "newly_changed"):
        assert getattr(second.last_observation, name).tolist() == getattr(first.last_observation, name).tolist()
    assert "no touched weights" not in caplog.text


def test_resumed_weights_are_not_the_base(model: Path, tmp_path: Path) -> None:
    _, callback = train_and_resume(model, tmp_path, None)
    expected = changed_by_group(model, tmp_path / "final")
    assert callback.last_observation.changed.sum() == sum(expected.values())


def test_a_resumed_run_supersedes_what_came_after_its_checkpoint(model: Path, tmp_path: Path, client: Client) -> None:
    first, second = train_and_resume(model, tmp_path, client.listening.grpc_address)
    assert first.run_id == second.run_id
    eventually(lambda: client.is_over(second.run_id) and client.run(second.run_id).registration.attempt == 2)
    history = [
        (entry.attempt, entry.item.observation.step)
        for entry in client.history(second.run_id)
        if entry.item.HasField("observation")
    ]
    assert history == [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5), (2, 6)]
    registration = client.run(second.run_id).registration
    assert (registration.attempt, registration.resumed_from_step) == (2, 2)


def test_a_base_that_changed_between_attempts_is_refused(model: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", seed=1)
    with pytest.raises(BaseMismatchError, match=r"is not the one that run resumed-\w+ started from"):
        train_and_resume(model, tmp_path / "out", None, base=str(other))


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"criterion": "atol=1e-5"}, "criterion is 'atol=1e-05' instead of 'bits'"),
        ({"visible_dtype": "float16"}, "visible_dtype is 'float16' instead of 'bfloat16'"),
        ({"exclude": ["norm", "bias"]}, r"exclude is \['bias', 'norm'\] instead of None"),
    ],
)
def test_a_run_that_was_measured_otherwise_is_refused(
    model: Path, tmp_path: Path, settings: dict[str, Any], difference: str
) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"run resumed-\w+ was measured otherwise before: {difference}\. Resume"
    ):
        train_and_resume(model, tmp_path, None, **settings)


@pytest.mark.parametrize(
    ("failing_step", "every", "beside"),
    [(1, 1, False), (2, 1, False), (2, 3, False), (1, 1, True), (2, 1, True), (3, 1, True)],
)
def test_a_training_that_starts_again_says_so_where_its_weights_have_moved(
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    failing_step: int,
    every: int,
    beside: bool,
) -> None:
    """Nor is an observation lost that is made beside the training, as on a GPU: here, things are in that order."""
    monkeypatch.setattr(UpdateObserver, "beside_training", beside)
    callback = recording(every=every)
    arguments = common_arguments(
        tmp_path, auto_find_batch_size=True, learning_rate=1e-3, gradient_accumulation_steps=1, max_steps=3
    )
    trainer = sft_trainer(model, arguments, [callback])
    training_step, calls = trainer.training_step, iter(range(1, 100))

    def out_of_memory_once(*given: Any, **named: Any) -> torch.Tensor:
        if next(calls) == failing_step:
            raise RuntimeError("CUDA out of memory.")
        return training_step(*given, **named)

    trainer.training_step = out_of_memory_once
    trainer.train()
    observed = [*range(every, failing_step, every), *range(every, 4, every)]
    assert [o.step for o in spooled(callback, "observation")] == observed
    assert ("from weights that it has already moved" in caplog.text) is (failing_step > 1)


def test_a_base_that_cannot_be_read_again_says_how_to_give_it(model: Path, tmp_path: Path) -> None:
    copied = tmp_path / "model"
    shutil.copytree(model, copied)
    arguments = common_arguments(tmp_path / "out", save_strategy="steps", save_steps=2)
    sft_trainer(copied, arguments, [recording()]).train()
    trainer = sft_trainer(copied, arguments | {"max_steps": 6}, [recording()])
    shutil.rmtree(copied)
    with pytest.raises(
        BaseMismatchError, match="Give the directory or hub id of the weights that this training started"
    ):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))


def test_a_checkpoint_written_without_the_callback_starts_a_run(model: Path, tmp_path: Path) -> None:
    arguments = common_arguments(tmp_path, save_strategy="steps", save_steps=2, learning_rate=1e-4)
    sft_trainer(model, arguments, []).train()
    callback = recording()
    trainer = sft_trainer(model, arguments | {"max_steps": 6}, [callback])
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    trainer.save_model(str(tmp_path / "final"))
    assert [observation.step for observation in spooled(callback, "observation")] == [5, 6]
    assert callback.last_observation.changed.sum() == sum(changed_by_group(model, tmp_path / "final").values())


def test_training_again_in_the_same_process_is_the_next_attempt(model: Path, tmp_path: Path) -> None:
    callback = recording(run_id="again")
    trainer = sft_trainer(model, common_arguments(tmp_path), [callback])
    trainer.train()
    trainer.train()
    assert [(attempt.key.attempt, attempt.finished) for attempt in attempts(callback)] == [(1, True), (2, True)]


class BreakMonitor(TrainerCallback):
    """Breaks the observer in the middle of training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            self.monkeypatch.setattr(UpdateObserver, "before_update", self.fail)

    @staticmethod
    def fail(*args: Any) -> None:
        raise RuntimeError("the monitor is broken")


def test_a_broken_monitor_does_not_stop_the_training(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR)
    callback = recording()
    trainer = sft_trainer(model, common_arguments(tmp_path), [callback, BreakMonitor(monkeypatch)])
    trainer.train()
    assert trainer.state.global_step == 4
    assert [observation.step for observation in spooled(callback, "observation")] == [1, 2]
    assert [log.step for log in spooled(callback, "training_log")][-1] == 4
    assert len(spooled(callback, "finish")) == 1
    (record,) = [record for record in caplog.records if record.name == "monitor.callback"]
    assert "training goes on" in record.getMessage()
    assert "the monitor is broken" in caplog.text


def test_strict_lets_a_broken_monitor_stop_the_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = sft_trainer(model, common_arguments(tmp_path), [recording(strict=True), BreakMonitor(monkeypatch)])
    with pytest.raises(RuntimeError, match="the monitor is broken"):
        trainer.train()
    end_of_training(trainer)


def test_a_directory_that_cannot_be_written_is_an_error_before_training(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    callback = recording(directory=tmp_path / "file" / "spool")
    trainer = sft_trainer(model, common_arguments(tmp_path), [callback])
    with pytest.raises(SpoolError, match="give another one"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_model_from_a_configuration_is_its_own_base(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    data = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 16
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=3,
        report_to="none",
        use_cpu=True,
        learning_rate=1e-3,
        dataloader_num_workers=2,
        save_strategy="no",
        disable_tqdm=True,
    )
    callback = recording()
    Trainer(Qwen2ForCausalLM(config), arguments, train_dataset=data, callbacks=[callback]).train()
    (attempt,) = attempts(callback)
    assert pb.Registration.FromString(attempt.registration).base.source == "initial weights"
    assert callback.last_observation.changed.sum() > 0


def test_the_best_model_that_is_loaded_at_the_end_is_not_the_last_step(model: Path, tmp_path: Path) -> None:
    data = [{"input_ids": [1, 2, 3, 4 + i], "labels": [1, 2, 3, 4 + i]} for i in range(8)]
    changed = []
    for load_best in (False, True):
        arguments = TrainingArguments(
            str(tmp_path / str(load_best)),
            num_train_epochs=3,
            per_device_train_batch_size=2,
            learning_rate=1e-4,
            save_strategy="epoch",
            eval_strategy="epoch",
            load_best_model_at_end=load_best,
            metric_for_best_model="eval_loss",
            # The worst is taken for the best: that is the first.
            greater_is_better=True,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        callback = recording(every=7)
        network = Qwen2ForCausalLM.from_pretrained(model)
        Trainer(network, arguments, train_dataset=data, eval_dataset=data, callbacks=[callback]).train()
        changed.append((callback.last_observation.step, callback.last_observation.changed.tolist()))
    assert changed[0] == changed[1]
    assert changed[0][0] == 12


def test_the_run_is_remembered_in_the_trainers_state(model: Path, tmp_path: Path) -> None:
    callback = recording()
    sft_trainer(model, common_arguments(tmp_path, save_strategy="steps", save_steps=4), [callback]).train()
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["sparsity_monitor"]["attributes"]["run_id"] == callback.run_id
