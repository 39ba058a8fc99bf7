"""Adapters under the trainers: what is reported is what a merged copy of the model shows, and nothing is disturbed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import IA3Config, LoraConfig
from transformers import Trainer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from monitor import SparsityCallback
from monitor.errors import BaseMismatchError, UnsupportedModelError
from monitor.observe.observation import Observation
from tests.counting import changed_by_group
from tests.tiny import PROMPTS, TEXTS, common_arguments, distinct_characters, save_model

TARGETS = ["q_proj", "up_proj"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tied"), tied=True)


def recording(**settings: Any) -> SparsityCallback:
    """A callback that reports to nobody, and does not hide what goes wrong."""
    return SparsityCallback(None, "test", strict=True, **settings)


def sft(model: Path, arguments: dict[str, Any], callbacks: list[Any], peft_config: Any) -> Trainer:
    data = Dataset.from_dict({"text": TEXTS * 8})
    config = SFTConfig(max_length=32, **arguments)
    return SFTTrainer(str(model), config, train_dataset=data, callbacks=callbacks, peft_config=peft_config)


def dpo(model: Path, arguments: dict[str, Any], callbacks: list[Any], peft_config: Any) -> Trainer:
    data = Dataset.from_dict({"prompt": PROMPTS * 4, "chosen": [" four"] * 16, "rejected": [" dog"] * 16})
    config = DPOConfig(**arguments)
    return DPOTrainer(str(model), args=config, train_dataset=data, callbacks=callbacks, peft_config=peft_config)


def grpo(model: Path, arguments: dict[str, Any], callbacks: list[Any], peft_config: Any) -> Trainer:
    return GRPOTrainer(
        str(model),
        reward_funcs=distinct_characters,
        args=GRPOConfig(num_generations=4, max_completion_length=8, beta=0.04, **arguments),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 4}),
        callbacks=callbacks,
        peft_config=peft_config,
    )


MakeTrainer = Callable[[Path, dict[str, Any], list[Any], Any], Trainer]
TRAINERS: dict[str, MakeTrainer] = {"sft": sft, "dpo": dpo, "grpo": grpo}


def lora(**changes: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": TARGETS, "lora_dropout": 0.1, "task_type": "CAUSAL_LM"} | changes)


def training(output: Path, **changes: Any) -> dict[str, Any]:
    return common_arguments(output, **{"learning_rate": 1e-2, "max_steps": 3} | changes)


def reported(observation: Observation) -> dict[tuple[str, str], int]:
    names = [("-" if group.layer is None else f"{group.layer:02d}", group.module) for group in observation.groups]
    return dict(zip(names, observation.changed.tolist(), strict=True))


def merged_on_a_copy(trainer: Trainer, directory: Path) -> Path:
    copy.deepcopy(trainer.model).merge_and_unload().save_pretrained(directory)
    return directory


def check_against_a_merged_copy(base: Path, trainer: Trainer, callback: SparsityCallback, directory: Path) -> None:
    expected = changed_by_group(base, merged_on_a_copy(trainer, directory))
    assert callback.last_observation is not None
    assert reported(callback.last_observation) == expected
    assert sum(expected.values()) > 0


@pytest.mark.parametrize("bf16_weights", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("trainer_name", TRAINERS)
def test_counts_are_those_of_a_merged_copy(trainer_name: str, bf16_weights: bool, model: Path, tmp_path: Path) -> None:
    callback = recording()
    arguments = training(tmp_path / "out", bf16_weights=bf16_weights)
    trainer = TRAINERS[trainer_name](model, arguments, [callback], lora(modules_to_save=["lm_head"]))
    trainer.train()
    check_against_a_merged_copy(model, trainer, callback, tmp_path / "final")


@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True}, {"use_rslora": True, "bias": "all"}, {"target_modules": ["embed_tokens", "q_proj"]}],
    ids=["dora", "rslora and biases", "embedding"],
)
def test_kinds_of_lora_are_counted_as_a_merged_copy(changes: dict[str, Any], model: Path, tmp_path: Path) -> None:
    callback = recording()
    trainer = sft(model, training(tmp_path / "out"), [callback], lora(**changes))
    trainer.train()
    check_against_a_merged_copy(model, trainer, callback, tmp_path / "final")


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings:UserWarning")
def test_a_tied_embedding_counts_once(tied: Path, tmp_path: Path) -> None:
    callback = recording()
    trainer = sft(tied, training(tmp_path / "out"), [callback], lora(target_modules=["embed_tokens", "q_proj"]))
    trainer.train()
    check_against_a_merged_copy(tied, trainer, callback, tmp_path / "final")


@pytest.mark.parametrize("trainer_name", ["sft", "grpo"])
def test_training_is_the_same_with_and_without_the_callback(trainer_name: str, model: Path, tmp_path: Path) -> None:
    ends = []
    for name, callbacks in {"with": [recording()], "without": []}.items():
        arguments = training(tmp_path / name, bf16_weights=True)
        trainer = TRAINERS[trainer_name](model, arguments, callbacks, lora(use_dora=True, modules_to_save=["lm_head"]))
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        ends.append((losses, {key: tensor.view(torch.uint8) for key, tensor in trainer.model.state_dict().items()}))
    (losses, weights), (losses_without, weights_without) = ends
    assert losses == losses_without
    assert len(losses) == 3
    assert list(weights) == list(weights_without)
    assert all(torch.equal(weights[name], weights_without[name]) for name in weights)


@pytest.mark.parametrize(
    "changes", [{"modules_to_save": ["lm_head"]}, {"use_dora": True, "bias": "all"}], ids=["lora", "dora and biases"]
)
def test_a_resumed_run_counts_as_an_uninterrupted_one(
    changes: dict[str, Any], model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="monitor")
    arguments = training(tmp_path / "out", save_strategy="steps", save_steps=2, max_steps=4)
    whole = recording()
    sft(model, arguments, [whole], lora(**changes)).train()
    resumed = recording()
    trainer = sft(model, arguments, [resumed], lora(**changes))
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    check_against_a_merged_copy(model, trainer, resumed, tmp_path / "final")
    assert resumed.run_id == whole.run_id
    first, second = whole.last_observation, resumed.last_observation
    assert first is not None
    assert second is not None
    assert second.touched is not None
    assert first.touched is not None
    assert reported(second) == reported(first)
    assert second.touched.tolist() == first.touched.tolist()
    assert not [record for record in caplog.records if record.name == "monitor.callback"]


def test_resuming_on_another_base_is_refused(model: Path, tmp_path: Path) -> None:
    arguments = training(tmp_path / "out", save_strategy="steps", save_steps=2, max_steps=4)
    sft(model, arguments, [recording()], lora()).train()
    other = save_model(tmp_path / "other", seed=1)
    trainer = sft(other, arguments, [recording()], lora())
    with pytest.raises(BaseMismatchError, match=r"is not the one that run .* started from"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


def test_the_base_can_be_given(model: Path, tmp_path: Path) -> None:
    callback = recording(base=str(model))
    trainer = sft(model, training(tmp_path / "out"), [callback], lora())
    trainer.train()
    check_against_a_merged_copy(model, trainer, callback, tmp_path / "final")


def test_a_base_that_trl_merges_into_for_vllm_is_copied(model: Path, tmp_path: Path) -> None:
    callback = recording()
    trainer = grpo(model, training(tmp_path), [], lora())
    trainer.args.use_vllm = True
    event = (trainer.args, trainer.state, trainer.control)
    callback.on_train_begin(*event, model=trainer.model)
    # What TRL does before each generation.
    trainer.model.merge_adapter()
    trainer.model.unmerge_adapter()
    trainer.state.global_step = 1
    callback.on_step_end(*event, model=trainer.model)
    observation = callback.last_observation
    callback.on_train_end(*event, model=trainer.model)
    assert observation is not None
    assert observation.base_mode == "device"
    assert observation.unmeasured is None


def test_other_adapters_are_refused_before_training(model: Path, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    trainer = sft(model, training(tmp_path), [SparsityCallback(None)], config)
    with pytest.raises(UnsupportedModelError, match="adapters of kind IA3"):
        trainer.train()
    assert trainer.state.global_step == 0
