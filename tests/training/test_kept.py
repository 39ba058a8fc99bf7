"""The mask and the counts of what is kept are those of the files that were saved, counted by an independent program."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from monitor import SparsityCallback, UpdateMask
from tests.counting import bfloat16_bits, changed_by_group
from tests.spooled import spooled
from tests.tiny import save_model, token_data

STEPS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


class ScheduleFree(torch.optim.Optimizer):
    """A stand-in for the optimizers of the package `schedulefree`: `eval()` turns what trains into an average of it.

    As theirs, it holds y in the parameters while it trains, and x after `eval()`, until `train()`.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float, beta: float = 0.6) -> None:
        super().__init__(parameters, {"lr": lr, "beta": beta, "train_mode": True, "k": 0})

    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            group["k"] += 1
            for y in group["params"]:
                if y.grad is None:
                    continue
                z = self.state[y].setdefault("z", y.detach().clone())
                with torch.no_grad():
                    update = y.grad.sign() * group["lr"]
                    y.lerp_(z, 1 / group["k"]).sub_(update * (group["beta"] * (1 - 1 / group["k"])))
                    z.sub_(update)

    def eval(self) -> None:
        self._exchange(to_train=False)

    def train(self) -> None:
        self._exchange(to_train=True)

    @torch.no_grad()
    def _exchange(self, *, to_train: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] is not to_train:
                group["train_mode"] = to_train
                weight = 1 - group["beta"] if to_train else 1 - 1 / group["beta"]
                for y in group["params"]:
                    if "z" in self.state[y]:
                        y.lerp_(self.state[y]["z"], weight)


class MovingAverage(TrainerCallback):
    """Saves a moving average of the weights in their place, and puts them back afterwards, as EMA callbacks do."""

    def __init__(self, *, at_the_end: bool = False) -> None:
        self.average: list[torch.Tensor] = []
        self.aside: list[torch.Tensor] = []
        self.at_the_end = at_the_end

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weights = list(kwargs["model"].parameters())
        if not self.average:
            self.average = [w.clone() for w in weights]
        for average, w in zip(self.average, weights, strict=True):
            average.lerp_(w, 0.3)
        if control.should_save:
            self.aside = [w.clone() for w in weights]
            self.fill(weights, self.average)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.fill(kwargs["model"].parameters(), self.aside)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.at_the_end:
            self.fill(kwargs["model"].parameters(), self.average)

    @staticmethod
    @torch.no_grad()
    def fill(weights: Iterable[torch.Tensor], values: Iterable[torch.Tensor]) -> None:
        for w, value in zip(weights, values, strict=True):
            w.copy_(value)


class AverageFromTheEvaluationOn(MovingAverage):
    """Exchanges the weights where no callback sees it, and puts them back before a later one looks."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        should_save, control.should_save = control.should_save, False
        super().on_step_end(args, state, control, **kwargs)
        control.should_save = should_save

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weights = list(kwargs["model"].parameters())
        self.aside = [w.detach().clone() for w in weights]
        self.fill(weights, self.average)


class Clip(TrainerCallback):
    """Clips the weights after each step, to a distance from where they began that is less than a step."""

    def __init__(self) -> None:
        self.bounds: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bounds = [(w.detach() - 2e-5, w.detach() + 2e-5) for w in kwargs["model"].parameters()]

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for w, (least, most) in zip(kwargs["model"].parameters(), self.bounds, strict=True):
            w.clamp_(least, most)


def trainer_of(
    model: Path, output: Path, callbacks: list[Any], *, schedule_free: bool = False, **changes: Any
) -> Trainer:
    """A training with checkpoints at every other step; float32 weights of a bfloat16 checkpoint."""
    arguments = {"save_strategy": "steps", "save_steps": 2, "max_steps": STEPS, "learning_rate": 1e-4} | changes
    settings = TrainingArguments(
        str(output), per_device_train_batch_size=4, report_to="none", use_cpu=True, disable_tqdm=True, **arguments
    )
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    optimizer = ScheduleFree(network.parameters(), lr=1e-3) if schedule_free else None
    return Trainer(
        network,
        settings,
        train_dataset=token_data(16),
        eval_dataset=token_data(4),
        callbacks=callbacks,
        optimizers=(optimizer, None),
    )


def recording(**settings: Any) -> SparsityCallback:
    return SparsityCallback(None, "test", **settings)


def check_mask(mask: UpdateMask, base: Path, saved: Path) -> None:
    before, after = bfloat16_bits(base), bfloat16_bits(saved)
    assert mask.count() > 0
    for name in mask.shapes:
        assert mask.bools(name).reshape(-1).tolist() == (before[name] != after[name]).tolist(), name


def check_what_is_left(callback: SparsityCallback, trainer: Trainer, base: Path, step: int = STEPS) -> None:
    """Check mask and counts against the weights that are saved when training has ended."""
    saved = Path(trainer.args.output_dir) / "final"
    trainer.save_model(str(saved))
    mask = UpdateMask.load(callback.directory / "update_mask.safetensors")
    check_mask(mask, base, saved)
    assert mask.metadata.step == step
    assert callback.kept is not None
    assert callback.kept.step == step
    assert int(callback.kept.changed.sum()) == mask.count() == sum(changed_by_group(base, saved).values())


def check_checkpoints(callback: SparsityCallback, trainer: Trainer, base: Path) -> None:
    """Check each checkpoint against the mask beside it, or where there is none, against what was observed."""
    observed = {o.step: sum(o.changed) for o in spooled(callback, "observation")}
    for checkpoint in Path(trainer.args.output_dir).glob("checkpoint-*"):
        step = int(checkpoint.name.rpartition("-")[2])
        beside = checkpoint / "sparsity_monitor" / "update_mask.safetensors"
        if beside.exists():
            mask = UpdateMask.load(beside)
            check_mask(mask, base, checkpoint)
            assert mask.metadata.step == step
        else:
            assert observed[step] == sum(changed_by_group(base, checkpoint).values())


EVALUATED = {"eval_strategy": "steps", "eval_steps": 2}


@pytest.mark.parametrize(
    ("before", "after", "settings", "are_observed"),
    [
        ([], [], {}, True),
        ([], [], {"schedule_free": True, **EVALUATED}, False),
        ([], [], {"schedule_free": True, "eval_strategy": "epoch", "save_strategy": "epoch"}, False),
        ([], [Clip], {}, False),
        ([Clip], [], {}, True),
        ([], [MovingAverage], {}, False),
        ([MovingAverage], [], {}, True),
        ([AverageFromTheEvaluationOn], [], EVALUATED, False),
        ([], [AverageFromTheEvaluationOn], EVALUATED, False),
    ],
    ids=[
        "plain",
        "schedule-free",
        "schedule-free-by-epochs",
        "clipped-after-ours",
        "clipped-before-ours",
        "average-after-ours",
        "average-before-ours",
        "average-that-is-put-back-before-ours",
        "average-from-the-evaluation-on-after-ours",
    ],
)
def test_mask_and_counts_are_those_of_what_is_saved(
    before: list[type], after: list[type], settings: dict[str, Any], are_observed: bool, model: Path, tmp_path: Path
) -> None:
    callback = recording()
    callbacks = [*(make() for make in before), callback, *(make() for make in after)]
    trainer = trainer_of(model, tmp_path, callbacks, **settings)
    trainer.train()
    check_what_is_left(callback, trainer, model)
    check_checkpoints(callback, trainer, model)
    beside = list(tmp_path.glob("checkpoint-*/sparsity_monitor/update_mask.safetensors"))
    assert bool(beside) is not are_observed


def test_the_package_schedulefree_is_counted_as_it_is_saved(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("schedulefree")
    callback = recording()
    trainer = trainer_of(model, tmp_path, [callback], optim="schedule_free_adamw", learning_rate=1e-3, **EVALUATED)
    trainer.train()
    check_what_is_left(callback, trainer, model)
    check_checkpoints(callback, trainer, model)


@pytest.mark.parametrize("schedule_free", [False, True])
def test_the_best_model_is_named_by_its_step(
    schedule_free: bool, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="monitor")
    callback = recording()
    # The worst is taken for the best: that is the first.
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    trainer = trainer_of(model, tmp_path, [callback], schedule_free=schedule_free, **best, **EVALUATED)
    trainer.train()
    assert trainer.state.best_global_step == 2
    check_what_is_left(callback, trainer, model, step=2)
    check_checkpoints(callback, trainer, model)
    # The history has the last step all the same.
    assert callback.last_observation.step == spooled(callback, "observation")[-1].step == STEPS
    assert "the weights at the end are those of step 2, the best model" in caplog.text


def test_attached_it_sees_what_other_callbacks_do_to_the_weights(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(model, tmp_path, [])
    callback = recording().attach(trainer)
    trainer.add_callback(Clip())
    trainer.add_callback(MovingAverage(at_the_end=True))
    trainer.train()
    check_what_is_left(callback, trainer, model)
    check_checkpoints(callback, trainer, model)
    assert "changed after they were observed" not in caplog.text


def test_weights_that_change_after_they_were_observed_are_said_once(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer_of(model, tmp_path / "a", [recording()], schedule_free=True, **EVALUATED).train()
    assert "changed after they were observed" not in caplog.text, "an evaluation may exchange weights"
    trainer_of(model, tmp_path / "b", [recording(), Clip()], save_strategy="no").train()
    assert caplog.text.count("weights are changed after they were observed at step 1") == 1


def test_what_is_saved_and_was_not_observed_is_said_and_reported(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = recording()
    trainer = trainer_of(model, tmp_path, [callback], schedule_free=True, **EVALUATED)
    trainer.train()
    saved = {step: sum(changed_by_group(model, tmp_path / f"checkpoint-{step}").values()) for step in (2, 4)}
    assert f"the weights saved at step 2 are not those observed there: {saved[2]:,} of " in caplog.text
    logged = [(log.step, log.metrics) for log in spooled(callback, "training_log")]
    found = {step: metrics["saved_changed_weights"] for step, metrics in logged if "saved_changed_weights" in metrics}
    assert found == saved


def test_a_save_changes_nothing_in_the_observations(model: Path, tmp_path: Path) -> None:
    """Nor in what trains: the same weights, bit for bit."""
    observations, weights = [], []
    for name, strategy in (("a", "no"), ("b", "steps")):
        callback = recording()
        trainer = trainer_of(
            model, tmp_path / name, [callback], schedule_free=True, save_strategy=strategy, save_steps=1, **EVALUATED
        )
        trainer.train()
        fields = ("changed", "newly_changed", "reverted", "step_changed", "touched")
        observed = spooled(callback, "observation")
        observations.append([[list(getattr(o, field)) for field in fields] for o in observed])
        trainer.save_model(str(tmp_path / name / "final"))
        weights.append(bfloat16_bits(tmp_path / name / "final"))
    assert observations[0] == observations[1]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_the_best_adapter_is_counted_as_its_step_was_observed(model: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    callback = recording()
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    trainer = trainer_of(model, tmp_path, [callback], **best, **EVALUATED, learning_rate=1e-2)
    adapted = peft.get_peft_model(trainer.model, peft.LoraConfig(target_modules=["q_proj"], r=2))
    trainer = Trainer(
        adapted, trainer.args, train_dataset=token_data(16), eval_dataset=token_data(4), callbacks=[callback]
    )
    trainer.train()
    observed = {o.step: list(o.changed) for o in spooled(callback, "observation")}
    assert observed[2] != observed[STEPS]
    assert callback.kept.step == trainer.state.best_global_step == 2
    assert callback.kept.changed.tolist() == observed[2]


def test_the_optimizers_own_steps_are_no_later_changes(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This optimizer raises the weights' versions at each step, also where not each is observed."""
    trainer = trainer_of(model, tmp_path, [], optim="adamw_torch", save_strategy="no", max_steps=8)
    recording(every=3).attach(trainer)
    trainer.train()
    assert "changed after they were observed" not in caplog.text
