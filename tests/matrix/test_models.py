"""Models of every shape, and the ways to run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from tests.matrix.models import collate, dense, images_and_text, mixture_of_experts, vision_language
from tests.matrix.runs import (
    Run,
    assert_counts_are_those_of_the_saved_weights,
    assert_same_training,
    counts,
    recording,
    save_parameters,
    train,
)
from tests.tiny import common_arguments, token_data


def train_model(
    make_model: Callable[[], PreTrainedModel],
    directory: Path,
    *others: TrainerCallback,
    monitored: bool = True,
    data: list[Any] | None = None,
    **changes: Any,
) -> Run:
    settings = {"max_steps": 2, "gradient_accumulation_steps": 1, "learning_rate": 1e-4} | changes
    arguments = common_arguments(directory / "out", **settings)

    def make(callbacks: list[TrainerCallback]) -> Trainer:
        return Trainer(
            make_model(),
            TrainingArguments(**arguments),
            train_dataset=token_data() if data is None else data,
            data_collator=None if data is None else collate,
            callbacks=[*callbacks, *others],
        )

    return train(make, directory, recording() if monitored else None, save_parameters)


def both(make_model: Callable[[], PreTrainedModel], directory: Path, **changes: Any) -> Run:
    """Train with the callback and without; the training must be the same."""
    monitored = train_model(make_model, directory / "monitored", **changes)
    assert_same_training(monitored, train_model(make_model, directory / "alone", monitored=False, **changes))
    return monitored


def test_tied_embeddings_count_once(tmp_path: Path) -> None:
    run = both(lambda: dense(tied=True), tmp_path)
    assert_counts_are_those_of_the_saved_weights(run)
    assert ("-", "lm_head") not in counts(run.observation)
    assert run.observation.weights == sum(parameter.numel() for parameter in dense(tied=True).parameters())


def test_experts_of_three_dimensions(tmp_path: Path) -> None:
    run = both(mixture_of_experts, tmp_path)
    assert_counts_are_those_of_the_saved_weights(run)
    assert counts(run.observation)["01", "mlp.experts.gate_up_proj"] > 0


def test_a_frozen_vision_tower_counts_as_unchanged(tmp_path: Path) -> None:
    run = both(vision_language, tmp_path, data=images_and_text(), remove_unused_columns=False)
    expected = run.expected()
    found = counts(run.observation)
    tower = {group: changed for group, changed in found.items() if group[1].startswith("visual")}
    assert len(tower) > 8
    assert not any(tower.values())
    assert {group: n for group, n in found.items() if n} == {group: n for group, n in expected.items() if n} != {}
    frozen = sum(group.frozen_weights for group in run.observation.groups)
    assert frozen == sum(parameter.numel() for parameter in vision_language().model.visual.parameters())
    assert run.observation.weights == sum(parameter.numel() for parameter in vision_language().parameters())


def test_gradient_checkpointing(tmp_path: Path) -> None:
    assert_counts_are_those_of_the_saved_weights(both(dense, tmp_path, activation_checkpointing=True))


def test_torch_compile(tmp_path: Path) -> None:
    run = both(dense, tmp_path, torch_compile=True, torch_compile_backend="aot_eager")
    assert_counts_are_those_of_the_saved_weights(run)


def test_torch_compile_to_machine_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Processes that compile take longer to start than they have to work.
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    torch._dynamo.reset()
    run = train_model(lambda: dense(layers=1), tmp_path, torch_compile=True)
    assert_counts_are_those_of_the_saved_weights(run)


def with_an_empty_parameter() -> PreTrainedModel:
    model = dense()
    model.model.layers[0].mlp.register_parameter("empty", nn.Parameter(torch.zeros(0, 32)))
    return model


def test_parameters_without_weights(tmp_path: Path) -> None:
    run = both(with_an_empty_parameter, tmp_path)
    assert_counts_are_those_of_the_saved_weights(run)
    assert counts(run.observation)["00", "mlp.empty"] == 0
