"""SubnetworkCallback in real trainers: what trains, what a checkpoint brings back, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainerState

from monitor import SparsityCallback, SubnetworkCallback, UpdateMask
from monitor.errors import ConfigurationError, MaskFileError, MaskMismatchError, SparsityMonitorError
from tests.subnetwork.optimizers import moved_outside, share_moved_inside, weights_of
from tests.tiny import common_arguments, plain_trainer, save_model

DENSITY = 0.2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def random_bools(model: Path, seed: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = load_file(model / "model.safetensors")
    return {name: torch.rand(weights.shape, generator=generator) < DENSITY for name, weights in base.items()}


@pytest.fixture(scope="module")
def inside(model: Path) -> dict[str, torch.Tensor]:
    return random_bools(model)


def trainer_for(model: Path, output: Path, callbacks: list[Any], *, evaluated: bool = False, **changes: Any) -> Trainer:
    settings = {"optim": "adamw_torch", "weight_decay": 0.1, "learning_rate": 1e-3, "max_grad_norm": 0.5} | changes
    return plain_trainer(model, common_arguments(output, **settings), callbacks, evaluated=evaluated)


def base_of(model: Path) -> dict[str, torch.Tensor]:
    return {name: weights.float() for name, weights in load_file(model / "model.safetensors").items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"optim": "adamw_torch", "eval_strategy": "steps", "eval_steps": 2},
        {"optim": "adamw_torch_fused"},
        {"optim": "adafactor"},
        {"optim": "adamw_torch", "fp16": True},
    ],
    ids=["adamw, evaluated", "adamw-fused", "adafactor", "fp16"],
)
def test_a_trainer_moves_the_weights_inside_alone(
    changes: dict[str, Any], model: Path, inside: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    callback = SubnetworkCallback(UpdateMask.from_bools(inside))
    trainer = trainer_for(model, tmp_path, [callback], evaluated="eval_strategy" in changes, **changes)
    trainer.train()
    after = weights_of(trainer.model)
    assert not moved_outside(inside, base_of(model), after)
    assert share_moved_inside(inside, base_of(model), after) > 0.8
    assert trainer.state.global_step == 4
    assert callback.subnetwork is not None
    assert not callback.subnetwork.moved()


def test_tied_weights_are_masked_once(tmp_path: Path) -> None:
    model = save_model(tmp_path / "tied", tied=True)
    bools = random_bools(model)
    trainer = trainer_for(model, tmp_path, [SubnetworkCallback(UpdateMask.from_bools(bools))])
    trainer.train()
    assert "lm_head.weight" not in bools
    assert not moved_outside(bools, base_of(model), weights_of(trainer.model))
    assert share_moved_inside(bools, base_of(model), weights_of(trainer.model)) > 0.8


def test_the_trainers_norm_is_that_of_the_masked_gradient(
    model: Path, inside: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.norms.append(float(torch.cat([p.grad.view(-1) for p in kwargs["model"].parameters()]).norm()))

        norms: list[float] = []  # noqa: RUF012

    seen = Gradients()
    trainer = trainer_for(model, tmp_path, [SubnetworkCallback(UpdateMask.from_bools(inside)), seen], max_grad_norm=1e9)
    trainer.train()
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert logged == pytest.approx(seen.norms, rel=1e-4)


def test_a_sparsity_callback_beside_it_sees_updates_within_the_mask(
    model: Path, inside: dict[str, torch.Tensor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mask = UpdateMask.from_bools(inside)
    mask.save(tmp_path / "mask.safetensors")
    observed = SparsityCallback(None, references={"subnetwork": tmp_path / "mask.safetensors"}, visible_dtype="float32")
    # Either order: the weights are put back before `on_step_end`.
    trainer_for(model, tmp_path, [observed, SubnetworkCallback(tmp_path / "mask.safetensors")]).train()
    last = observed.last_observation
    assert last is not None
    density = 1 - last.cumulative_sparsity
    assert 0.8 * mask.density < density <= mask.density
    overlap = last.overlap("subnetwork")
    assert overlap.o1 == 1.0
    assert overlap.intersection == last.changed.sum() <= mask.count() == overlap.reference
    told = capfd.readouterr().err
    assert f"subnetwork: {mask.count():,} of {mask.weights:,} weights train" in told
    assert "AdamW keeps state of these only" in told
    assert "the optimizer's state takes" in told


def test_a_resumed_training_goes_on_as_if_it_had_not_been_stopped(
    model: Path, inside: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    mask = UpdateMask.from_bools(inside)
    whole = trainer_for(model, tmp_path, [SubnetworkCallback(mask)], save_strategy="steps", save_steps=2)
    whole.train()
    resumed = trainer_for(model, tmp_path, [SubnetworkCallback(mask)])
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, weights in weights_of(resumed.model).items():
        assert torch.equal(weights, weights_of(whole.model)[name]), name
    assert not moved_outside(inside, base_of(model), weights_of(resumed.model))
    state = TrainerState.load_from_json(str(tmp_path / "checkpoint-2" / "trainer_state.json"))
    assert set(state.stateful_callbacks["sparsity_monitor_subnetwork"]["attributes"]) == {"mask"}

    other = SubnetworkCallback(UpdateMask.from_bools(random_bools(model, seed=5)))
    with pytest.raises(ConfigurationError, match=r"training with another mask .* Resume it with that mask"):
        trainer_for(model, tmp_path, [other]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_full_training_may_be_gone_on_with_in_a_subnetwork(
    model: Path, inside: dict[str, torch.Tensor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer_for(model, tmp_path, [], save_strategy="steps", save_steps=2, max_steps=2).train()
    checkpoint = tmp_path / "checkpoint-2"
    trainer = trainer_for(model, tmp_path, [SubnetworkCallback(UpdateMask.from_bools(inside))])
    trainer.train(resume_from_checkpoint=str(checkpoint))
    before = load_file(checkpoint / "model.safetensors")
    assert not moved_outside(inside, before, weights_of(trainer.model))
    assert share_moved_inside(inside, before, weights_of(trainer.model)) > 0.8
    assert "from the checkpoint of a training of all weights" in capfd.readouterr().err


class WritesToWeights(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            kwargs["model"].model.norm.weight.add_(1.0)


def test_weights_that_something_else_moves_are_named_at_the_end(
    model: Path, inside: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callbacks = [SubnetworkCallback(UpdateMask.from_bools(inside)), WritesToWeights()]
    with caplog.at_level(logging.ERROR, "monitor"):
        trainer_for(model, tmp_path, callbacks, max_steps=1).train()
    (record,) = [record for record in caplog.records if "outside the mask" in record.getMessage()]
    assert "model.norm.weight" in record.getMessage()


class Fails(TrainerCallback):
    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise RuntimeError("no space left")


def test_after_a_training_that_raised_another_one_is_not_masked_in_silence(
    model: Path, inside: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    callback = SubnetworkCallback(UpdateMask.from_bools(inside))
    failed = trainer_for(model, tmp_path, [callback, Fails()])
    with pytest.raises(RuntimeError, match="no space left"):
        failed.train()
    optimizer = torch.optim.SGD(failed.model.parameters(), lr=0.1)
    failed.model(input_ids=torch.tensor([[4, 5]]), labels=torch.tensor([[4, 5]])).loss.backward()
    with pytest.raises(ConfigurationError, match=r"close\(\) it first"):
        optimizer.step()
    callback.close()
    optimizer.step()


class Bypasses(TrainerCallback):
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["optimizer"].step = lambda closure=None: None


def test_a_step_that_bypasses_the_optimizer_ends_the_training(
    model: Path, inside: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    callback = SubnetworkCallback(UpdateMask.from_bools(inside))
    with pytest.raises(SparsityMonitorError, match="step 1 was not made by the optimizer"):
        trainer_for(model, tmp_path, [callback, Bypasses()]).train()
    callback.close()


def test_what_cannot_work_is_refused_before_training(
    model: Path, inside: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with pytest.raises(MaskFileError, match="cannot read a mask"):
        SubnetworkCallback(tmp_path / "missing.safetensors")
    with pytest.raises(ConfigurationError, match=r"mask is 0\.2; expected an UpdateMask, or the path"):
        SubnetworkCallback(0.2)  # type: ignore[arg-type]
    lacking = {name: bools for name, bools in inside.items() if "norm" not in name}
    with pytest.raises(MaskMismatchError, match=r"missing: .*norm"):
        trainer_for(model, tmp_path, [SubnetworkCallback(UpdateMask.from_bools(lacking))]).train()
