"""What cannot work is refused before training starts, in words that say what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, Trainer, TrainerControl, TrainerState, TrainingArguments

from monitor import SparsityCallback, UpdateMask
from monitor.errors import (
    BaseMismatchError,
    ConfigurationError,
    MaskMismatchError,
    SparsityMonitorError,
    UnsupportedModelError,
)
from monitor.observe.observer import UpdateObserver
from tests.counting import changed_by_group
from tests.matrix.models import dense
from tests.matrix.runs import counts, recording
from tests.parallel.models import make_model
from tests.parallel.processes import run_together
from tests.tiny import common_arguments, dpo_trainer, reward_trainer, sft_trainer


def assert_refused(trainer: Trainer, error: type[SparsityMonitorError], message: str) -> None:
    with pytest.raises(error, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_callback_that_was_added_twice(model: Path, tmp_path: Path) -> None:
    refusal = r"two SparsityCallbacks observe this training of Qwen2ForCausalLM; expected one\. Remove one of"
    trainer = sft_trainer(model, common_arguments(tmp_path), [recording(), recording()])
    assert_refused(trainer, ConfigurationError, refusal)
    attached = sft_trainer(model, common_arguments(tmp_path), [recording()])
    recording().attach(attached)
    assert_refused(attached, ConfigurationError, refusal)


def test_one_callback_observes_one_training_after_another(model: Path, tmp_path: Path) -> None:
    callback = recording()
    for name in ("first", "second"):
        sft_trainer(model, common_arguments(tmp_path / name, max_steps=1), [callback]).train()
    trainer = sft_trainer(model, common_arguments(tmp_path / "third", max_steps=1), [recording()])
    trainer.train()
    trainer.train()


def test_a_model_without_weights(tmp_path: Path) -> None:
    # The Trainer would not take it either, so that it never comes to a training.
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(UnsupportedModelError, match=r"on the meta device.*model\.embed_tokens\.weight.*Load the weig"):
        recording().on_train_begin(arguments, TrainerState(), TrainerControl(), model=dense().to("meta"))


@pytest.mark.parametrize("setting", ["include", "exclude"])
def test_a_pattern_that_matches_no_parameter(setting: str, model: Path, tmp_path: Path) -> None:
    trainer = sft_trainer(model, common_arguments(tmp_path), [recording(**{setting: ["qproj"]})])
    assert_refused(trainer, ConfigurationError, rf"{setting} has 'qproj', which matches none of the \d+ parameters")


def test_a_base_on_a_hub_that_cannot_be_reached(model: Path, tmp_path: Path) -> None:
    # The tests run with HF_HUB_OFFLINE=1.
    trainer = sft_trainer(model, common_arguments(tmp_path), [recording(base="nobody/has-this-model")])
    refusal = r"cannot read the base from 'nobody/has-this-model'(.|\n)*Give the directory or hub id"
    assert_refused(trainer, BaseMismatchError, refusal)


def following(tmp_path: Path, model: Path) -> Trainer:
    settings: dict[str, Any] = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 1.0}
    return dpo_trainer(model, common_arguments(tmp_path / "out", learning_rate=1e-3, **settings), [])


def test_a_reference_model_that_follows_the_training(model: Path, tmp_path: Path) -> None:
    trainer = following(tmp_path, model)
    trainer.add_callback(recording(base=trainer.ref_model))
    assert_refused(trainer, ConfigurationError, "sync_ref_model is on: .* Leave `base` out, or give a state dict")


def test_a_copy_of_a_reference_model_that_follows_the_training_is_a_base(model: Path, tmp_path: Path) -> None:
    trainer = following(tmp_path, model)
    callback = recording(base=trainer.ref_model.state_dict())
    trainer.add_callback(callback)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert callback.last_observation.changed.sum() == sum(changed_by_group(model, tmp_path / "final").values()) > 0


def test_a_mask_of_a_part_of_the_parameters(model: Path, tmp_path: Path) -> None:
    mask = UpdateMask.from_bools({"model.norm.weight": torch.ones(64, dtype=torch.bool)})
    trainer = sft_trainer(model, common_arguments(tmp_path), [recording(references={"part": mask})])
    assert_refused(trainer, MaskMismatchError, "reference mask 'part'.*missing: .*and 2[0-9] more")
    # Which parameters it covers may be chosen.
    chosen = recording(references={"part": mask}, include=[r"^model\.norm\."])
    sft_trainer(model, common_arguments(tmp_path), [chosen]).train()
    assert chosen.last_observation.overlap("part").reference == 64


def test_a_directory_without_a_model(model: Path, tmp_path: Path) -> None:
    callback = SparsityCallback(None, "matrix", base=tmp_path)
    trainer = sft_trainer(model, common_arguments(tmp_path / "out"), [callback])
    assert_refused(trainer, BaseMismatchError, "Give the directory or hub id")


def test_a_base_whose_file_was_cut_short(model: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(model, tmp_path / "base"))
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    trainer = sft_trainer(model, common_arguments(tmp_path / "out"), [recording(base=base)])
    assert_refused(trainer, BaseMismatchError, r"cannot read the base from '.*base'(.|\n)*Give the directory or hub id")


def change_configuration(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_base_whose_weights_do_not_fit_its_configuration(model: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(model, tmp_path / "base"))
    change_configuration(base, vocab_size=7)
    trainer = sft_trainer(model, common_arguments(tmp_path / "out"), [recording(base=base)])
    assert_refused(trainer, BaseMismatchError, r"cannot read the base from '.*base'(.|\n)*Give the directory or hub id")


def test_a_base_of_another_architecture(model: Path, tmp_path: Path) -> None:
    # Without weights: they are not looked at.
    GPT2Config().save_pretrained(tmp_path / "base")
    trainer = sft_trainer(model, common_arguments(tmp_path / "out"), [recording(base=tmp_path / "base")])
    refusal = r"base in '.*base' is another model: model_type 'gpt2' instead of 'qwen2'\. Give the directory"
    assert_refused(trainer, BaseMismatchError, refusal)


def test_a_base_of_another_size(model: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(model, tmp_path / "base"))
    change_configuration(base, hidden_size=8192)
    trainer = sft_trainer(model, common_arguments(tmp_path / "out"), [recording(base=base)])
    assert_refused(trainer, BaseMismatchError, r"is another model: hidden_size 8192 instead of 64\. Give the directory")


def observe_flat_parameters() -> str:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(make_model(), use_orig_params=False, device_id=torch.device("cpu"))
    with pytest.raises(UnsupportedModelError) as error:
        UpdateObserver(model)
    return str(error.value)


@pytest.mark.xdist_group("parallel")
def test_fsdp1_that_hides_the_parameters() -> None:
    for message in run_together(observe_flat_parameters, 2):
        assert "use_orig_params=False" in message
        assert "Set use_orig_params=True and FULL_SHARD, or use FSDP2" in message


def test_a_resumed_model_whose_head_started_at_random(model: Path, tmp_path: Path) -> None:
    """A reward model made from a language model: the head that it started with is written nowhere."""
    arguments = common_arguments(tmp_path / "out", save_strategy="steps", save_steps=2)
    reward_trainer(model, arguments, [recording()]).train()
    checkpoint = str(tmp_path / "out" / "checkpoint-2")
    resumed = reward_trainer(model, arguments, [recording()])
    refusal = (
        r"missing: score\.weight.* save the model before its first step with save_pretrained, .*directory as `base`"
    )
    with pytest.raises(BaseMismatchError, match=refusal):
        resumed.train(resume_from_checkpoint=checkpoint)

    # With the head in the directory that the training starts from, there is a base to read again.
    reward_trainer(model, arguments, []).save_model(str(tmp_path / "with-head"))
    again = common_arguments(tmp_path / "again", save_strategy="steps", save_steps=2)
    reward_trainer(tmp_path / "with-head", again, [recording()]).train()
    callback = recording()
    trainer = reward_trainer(tmp_path / "with-head", again, [callback])
    trainer.train(resume_from_checkpoint=str(tmp_path / "again" / "checkpoint-2"))
    trainer.save_model(str(tmp_path / "final"))
    assert counts(callback.last_observation) == changed_by_group(tmp_path / "with-head", tmp_path / "final")
