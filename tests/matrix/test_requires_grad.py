"""Parameters whose `requires_grad` is switched during training, and parameters that come later."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from monitor import SparsityCallback, UpdateMask
from monitor.observe.observer import UpdateObserver
from tests.counting import changed_by_group
from tests.matrix.models import dense
from tests.matrix.runs import counts, recording, save_parameters
from tests.parallel.models import make_model, spread
from tests.parallel.processes import run_together
from tests.tiny import common_arguments, token_data

FIRST_LAYER = "model.layers.0."
EVENTS = ("on_step_begin", "on_pre_optimizer_step", "on_step_end")


class Switch(TrainerCallback):
    """Switches the first layer on or off at an event of a step, and lets the optimizer have what it lacks."""

    def __init__(self, event: str, step: int, trains: bool) -> None:
        self.event, self.step, self.trains = event, step, trains

    def on_event(self, event: str, state: Any, **kwargs: Any) -> None:
        if (event, state.global_step) != (self.event, self.step):
            return
        layer = [p for name, p in kwargs["model"].named_parameters() if name.startswith(FIRST_LAYER)]
        for parameter in layer:
            parameter.requires_grad_(self.trains)
        if self.trains:
            kwargs["optimizer"].optimizer.add_param_group({"params": layer})
            # The scheduler has as many learning rates as there were groups when it was made.
            kwargs["lr_scheduler"].base_lrs.append(kwargs["lr_scheduler"].base_lrs[0])
            kwargs["lr_scheduler"].lr_lambdas.append(kwargs["lr_scheduler"].lr_lambdas[0])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_event("on_step_begin", state, **kwargs)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_event("on_pre_optimizer_step", state, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_event("on_step_end", state, **kwargs)


def without_first_layer() -> PreTrainedModel:
    model = dense()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(FIRST_LAYER))
    return model


def make_trainer(model: PreTrainedModel, output: Path, callbacks: list[TrainerCallback], **changes: Any) -> Trainer:
    settings = {"max_steps": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-3} | changes
    arguments = TrainingArguments(**common_arguments(output, **settings))
    return Trainer(model, arguments, train_dataset=token_data(), callbacks=callbacks)


def train_and_count(trainer: Trainer, directory: Path, *, resume: Path | None = None) -> dict[tuple[str, str], int]:
    """Train, and count in the saved weights what changed."""
    if not (directory / "initial").exists():
        save_parameters(trainer, directory / "initial")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    save_parameters(trainer, directory / "final")
    return changed_by_group(directory / "initial", directory / "final")


def changed_in_first_layer(counted: dict[tuple[str, str], int]) -> int:
    return sum(n for (layer, _), n in counted.items() if layer == "00")


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("event", EVENTS)
def test_a_layer_that_starts_to_train_is_counted_from_then_on(event: str, order: str, tmp_path: Path) -> None:
    """In whichever order this callback and the one that switches come."""
    callback, switch = recording(), Switch(event, 2, trains=True)
    callbacks = [switch, callback] if order == "before" else [callback, switch]
    trainer = make_trainer(without_first_layer(), tmp_path / "out", callbacks)
    expected = train_and_count(trainer, tmp_path)
    assert changed_in_first_layer(expected) > 0
    assert counts(callback.last_observation) == expected


def test_a_layer_that_trains_no_more_is_counted_on(tmp_path: Path) -> None:
    callback = recording()
    trainer = make_trainer(dense(), tmp_path / "out", [Switch("on_step_begin", 2, trains=False), callback])
    expected = train_and_count(trainer, tmp_path)
    assert changed_in_first_layer(expected) > 0
    assert counts(callback.last_observation) == expected


def test_the_training_is_the_same_when_a_layer_is_switched_on(tmp_path: Path) -> None:
    def losses(callbacks: list[TrainerCallback]) -> list[float]:
        trainer = make_trainer(without_first_layer(), tmp_path, [Switch("on_step_begin", 2, trains=True), *callbacks])
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert losses([recording()]) == losses([])


def test_a_layer_that_started_to_train_before_a_resume_is_measured_from_its_base(tmp_path: Path) -> None:
    without_first_layer().save_pretrained(tmp_path / "model")

    def load() -> PreTrainedModel:
        model = type(dense()).from_pretrained(tmp_path / "model")
        return model.requires_grad_(True)

    def trainer(callback: SparsityCallback, first_step: int, **changes: Any) -> Trainer:
        model = load()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(FIRST_LAYER))
        switch = Switch("on_step_begin", first_step, trains=True)
        return make_trainer(model, tmp_path / "out", [switch, callback], save_strategy="steps", save_steps=2, **changes)

    first, second = recording(), recording()
    train_and_count(trainer(first, 1), tmp_path)
    touched = int(first.last_observation.touched.sum())
    # Optimizers cannot be resumed with other groups than they were saved with, so that only weights are.
    resumed = trainer(second, 5, max_steps=7, save_only_model=True)
    (tmp_path / "out" / "checkpoint-4" / "optimizer.pt").unlink()
    (tmp_path / "out" / "checkpoint-4" / "scheduler.pt").unlink()
    (tmp_path / "final" / "model.safetensors").unlink()
    (tmp_path / "final").rmdir()
    expected = train_and_count(resumed, tmp_path, resume=tmp_path / "out" / "checkpoint-4")
    assert changed_in_first_layer(expected) > 0
    assert counts(second.last_observation) == expected
    assert int(second.last_observation.touched.sum()) >= touched


class Grow(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            kwargs["model"].register_parameter("scale", nn.Parameter(torch.ones(3)))


def test_a_parameter_that_was_added_is_named_and_not_counted(tmp_path: Path) -> None:
    callback = recording()
    trainer = make_trainer(dense(), tmp_path / "out", [callback, Grow()])
    with pytest.warns(UserWarning, match="neither measured nor counted: scale") as warned:
        trainer.train()
    assert len([w for w in warned if "neither measured" in str(w.message)]) == 1
    assert callback.last_observation.step == 4
    assert callback.last_observation.weights == sum(parameter.numel() for parameter in dense().parameters())


def observed_after(switch: Callable[[nn.Module], Any], **settings: Any) -> tuple[UpdateObserver, nn.Module]:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[0].requires_grad_(False)
    observer = UpdateObserver(model, **settings)
    switch(model)
    observer.follow(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    return observer, model


def test_frozen_weights_become_trainable_in_the_observations_groups() -> None:
    observer, _ = observed_after(lambda model: model.requires_grad_(True))
    observation = observer.observe(1)
    assert (observation.changed.sum(), sum(group.frozen_weights for group in observation.groups)) == (18, 0)
    assert observer.update_mask().count() == observer.touched_mask().count() == 18


def test_weights_that_moved_before_they_were_followed_are_named_and_not_measured() -> None:
    def train_at_once(model: nn.Module) -> None:
        model.requires_grad_(True)
        with torch.no_grad():
            model[0].weight.add_(1.0)

    with pytest.warns(UserWarning, match=r"0\.weight: written to before .* What they started from is not known"):
        observer, _ = observed_after(train_at_once)
    observation = observer.observe(1)
    assert (observation.changed.sum(), sum(group.frozen_weights for group in observation.groups)) == (9, 9)
    assert observation.unmeasured is not None
    assert observation.unmeasured.sum() == 9


def test_a_reference_mask_that_lacks_what_trains_now_is_named_and_counts_as_empty_there() -> None:
    ones = torch.ones(3, 3, dtype=torch.bool)
    partial, full = (
        UpdateMask.from_bools({"1.weight": ones}),
        UpdateMask.from_bools({"0.weight": ones, "1.weight": ones}),
    )
    with pytest.warns(UserWarning, match=r"reference mask 'partial' lacks 0\.weight"):
        observer, _ = observed_after(
            lambda model: model.requires_grad_(True), references={"partial": partial, "full": full}
        )
    observation = observer.observe(1)
    assert observation.overlap("partial").intersection == 9
    assert observation.overlap("full").intersection == 18


def test_a_base_in_place_is_not_followed_by_what_trains_now() -> None:
    base = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))

    def switch(model: nn.Module) -> None:
        model.requires_grad_(True)

    model = copy.deepcopy(base)
    model[0].requires_grad_(False)
    observer = UpdateObserver(model, base=base)
    switch(model)
    observer.follow(model)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert observer.observe(1).changed.sum() == 9


def test_frozen_weights_that_differ_from_the_base_are_measured() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    base = copy.deepcopy(model.state_dict())
    model[0].requires_grad_(False)
    with torch.no_grad():
        model[0].weight[0, 0] += 1.0
    observer = UpdateObserver(model, base=base, first_step=4)
    assert observer.observe(5).changed.sum() == 1
    assert observer.base_fingerprint == UpdateObserver(model).base_fingerprint


def switch_together(how: str) -> tuple[dict[tuple[str, str], int], int]:
    model = make_model()
    model.layers[0].requires_grad_(False)
    model = spread(model, how)
    observer = UpdateObserver(model)
    for step in (1, 2):
        model.requires_grad_(True)
        observer.follow(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if step == 1 or ".0." in name:
                    parameter.add_(0.1)
        observation = observer.observe(step)
    return counts(observation), observer.monitor_bytes


@pytest.mark.xdist_group("parallel")
@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_processes_take_up_their_parts_of_what_trains_now(how: str) -> None:
    model = make_model()
    observer = UpdateObserver(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.1)
            if ".0." in name:
                parameter.add_(0.1)
    expected = counts(observer.observe(1))
    assert sum(expected.values()) > 0.9 * sum(parameter.numel() for parameter in model.parameters())
    results = run_together(switch_together, 2, how)
    assert [found for found, _ in results] == [expected, expected]
    # Each holds half of what one process holds, but for rounding up to words.
    assert max(held for _, held in results) < 0.6 * observer.monitor_bytes
