"""What a real training does about dense, sparse, inert and broken updates."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from monitor import DenseThresholds, Observation, SparsityCallback, Verdict
from monitor.errors import ConfigurationError
from monitor.observe.observer import UpdateObserver
from monitor.training.on_dense import DenseWatch
from monitor.training.trainer import TrainerAnswer
from monitor.verdict import Kind
from tests.spooled import spooled
from tests.test_verdict import observed
from tests.tiny import common_arguments, end_of_training, save_model, sft_trainer

# In float32 master weights, this changes nearly every visible weight at once; the other, hardly any.
LARGE, SMALL = 1e-2, 1e-6
AT_ONCE = DenseThresholds(warmup_steps=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _from_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="monitor")


def watching(**settings: Any) -> SparsityCallback:
    return SparsityCallback(None, "test", **{"dense_thresholds": AT_ONCE} | settings)


def train(
    model: Path, output: Path, callback: SparsityCallback | None, *others: TrainerCallback, **changes: Any
) -> Trainer:
    callbacks = [*others, *([callback] if callback else [])]
    arguments = common_arguments(output, **{"max_steps": 4, "gradient_accumulation_steps": 1} | changes)
    trainer = sft_trainer(model, arguments, callbacks)
    trainer.train()
    return trainer


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "monitor.training.on_dense"]


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_dense": "abort"}, 'on_dense is \'abort\'; expected "warn", "stop", a function that takes'),
        ({"on_dense": True}, "on_dense is True; expected"),
        ({"dense_thresholds": 0.5}, "dense_thresholds is 0.5"),
        (
            {"dense_thresholds": {"cumulative": 35.5}},
            "cumulative of dense_thresholds is 35.5; expected a sparsity from 0 to 1",
        ),
    ],
)
def test_what_cannot_be_done_is_an_error_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        watching(**settings)


def test_stop_ends_a_dense_training_with_a_checkpoint(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = watching(on_dense="stop", dense_thresholds=DenseThresholds(warmup_steps=2))
    trainer = train(model, tmp_path, callback, learning_rate=LARGE)
    # Step 3 is the first after the warm-up.
    assert trainer.state.global_step == 3
    assert (tmp_path / "checkpoint-3" / "model.safetensors").exists()
    (_, verdict), (_, stop) = said(caplog)
    assert verdict.startswith("sparsity-monitor: dense (looks like SFT) at step 3: ")
    assert stop == 'sparsity-monitor: on_dense="stop" ends the training after step 3, with a checkpoint.'
    assert callback.last_verdict.kind is Kind.DENSE
    reported = spooled(callback, "observation")[-1].verdict
    assert (reported.kind, reported.reason) == (callback.last_verdict.kind, callback.last_verdict.reason)


def test_stop_ends_a_training_of_one_layer_once_that_is_dense(model: Path, tmp_path: Path) -> None:
    """A fifth of the weights train: as a share of all of them, the model would stay sparse for ever."""

    callback = watching(on_dense="stop")
    arguments = common_arguments(tmp_path, max_steps=4, gradient_accumulation_steps=1, learning_rate=LARGE)
    trainer = sft_trainer(model, arguments, [callback])
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_("layers.1.self_attn" in name)
    trainer.train()
    assert trainer.state.global_step == 1
    assert callback.last_observation.whole_model_cumulative_sparsity > 0.7
    assert callback.last_observation.cumulative_sparsity < 0.1


def test_what_is_made_beside_the_training_is_answered_one_step_later(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; without one, the observer only says that it works so."""
    monkeypatch.setattr(UpdateObserver, "beside_training", True)
    trainer = train(model, tmp_path, watching(on_dense="stop", every=3), max_steps=12, learning_rate=LARGE)
    assert trainer.state.global_step == 4
    assert (tmp_path / "checkpoint-4").is_dir()
    (stop,) = [text for _, text in said(caplog) if "on_dense" in text]
    assert stop == 'sparsity-monitor: on_dense="stop" ends the training after step 4, with a checkpoint.'


def test_a_stopped_training_resumes_from_its_checkpoint(model: Path, tmp_path: Path) -> None:
    train(model, tmp_path, watching(on_dense="stop"), learning_rate=LARGE)
    resumed = sft_trainer(
        model, common_arguments(tmp_path, max_steps=3, learning_rate=LARGE), [watching(on_dense=None)]
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert resumed.state.global_step == 3


def test_stop_lets_a_sparse_training_finish(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = watching(on_dense="stop")
    trainer = train(model, tmp_path, callback, learning_rate=SMALL)
    assert trainer.state.global_step == 4
    assert not list(tmp_path.glob("checkpoint-*"))
    ((level, verdict),) = said(caplog)
    assert level == "INFO"
    assert re.match(r"sparsity-monitor: sparse at step 3: 9\d\.\d+ % of [\d,]+ trained weights equal the base", verdict)


def test_warn_warns_once_and_training_goes_on(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = train(model, tmp_path, watching(), learning_rate=LARGE)
    assert trainer.state.global_step == 4
    ((level, verdict),) = said(caplog)
    assert level == "WARNING"
    assert "dense (looks like SFT) at step 1" in verdict


def test_none_only_takes_note(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(model, tmp_path, watching(on_dense=None), learning_rate=LARGE, max_steps=2)
    assert [level for level, _ in said(caplog)] == ["INFO"]


def test_only_observed_steps_are_judged(model: Path, tmp_path: Path) -> None:
    trainer = train(model, tmp_path, watching(on_dense="stop", every=2), learning_rate=LARGE)
    assert trainer.state.global_step == 2


def test_a_function_is_called_once_as_an_event_of_a_trainer_callback_is(model: Path, tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    def halve_learning_rate(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        calls.append((args, state, control, kwargs, state.global_step))

    callback = watching(on_dense=halve_learning_rate)
    trainer = train(model, tmp_path, callback, learning_rate=LARGE, max_steps=3)
    ((args, state, control, kwargs, step),) = calls
    assert step == 1
    assert args is trainer.args
    assert state is trainer.state
    assert isinstance(control, TrainerControl)
    assert isinstance(kwargs["observation"], Observation)
    assert isinstance(kwargs["verdict"], Verdict)
    assert (kwargs["observation"].step, kwargs["verdict"].kind) == (1, Kind.DENSE)
    assert {"model", "optimizer", "lr_scheduler"} <= set(kwargs)


def test_a_function_can_stop_the_training(model: Path, tmp_path: Path) -> None:
    def stop(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True

    trainer = train(model, tmp_path, watching(on_dense=stop), learning_rate=LARGE)
    assert trainer.state.global_step == 1
    assert not list(tmp_path.glob("checkpoint-*"))


def fails(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("the user's function is broken")


def test_a_function_that_fails_ends_neither_training_nor_observing(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = watching(on_dense=fails)
    trainer = train(model, tmp_path, callback, learning_rate=LARGE, max_steps=3)
    assert trainer.state.global_step == callback.last_observation.step == 3
    assert "the user's function is broken" in caplog.text
    assert [message for level, message in said(caplog) if level == "ERROR"] == [
        "sparsity-monitor: the function given as on_dense failed; training and monitor go on"
    ]


def test_strict_raises_what_the_function_raises(model: Path, tmp_path: Path) -> None:
    arguments = common_arguments(tmp_path, learning_rate=LARGE)
    trainer = sft_trainer(model, arguments, [watching(on_dense=fails, strict=True)])
    with pytest.raises(RuntimeError, match="the user's function is broken"):
        trainer.train()
    end_of_training(trainer)


def test_a_learning_rate_too_small_for_pure_bfloat16_is_inert(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Biases begin at zero, and zero moves at any learning rate.
    callback = watching(exclude=["bias"])
    train(model, tmp_path, callback, learning_rate=1e-12, model_init_kwargs={"dtype": "bfloat16"})
    ((level, verdict),) = said(caplog)
    assert level == "WARNING"
    assert verdict.startswith("sparsity-monitor: inert at step 3: not one of ")
    norm = re.search(r"although the gradient norm is ([\d.]+): the learning rate, [\d.]+e-1\d, is too small", verdict)
    assert norm is not None
    assert float(norm[1]) > 0


def test_why_updates_are_inert_is_said_once_it_is_known(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trainers log the gradient norm every 500 steps, unless told otherwise."""
    changes = {"learning_rate": 1e-12, "model_init_kwargs": {"dtype": "bfloat16"}}
    train(model, tmp_path, watching(exclude=["bias"]), max_steps=8, logging_steps=5, **changes)
    (_, first), (_, second) = said(caplog)
    assert re.search("inert at step 3: .*; the gradient norm is not known yet", first)
    assert re.search("inert at step 6: .* although the gradient norm is", second)


def test_master_weights_that_move_below_what_shows_are_told_apart(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(model, tmp_path, watching(exclude=["bias"]), learning_rate=1e-10)
    ((_, verdict),) = said(caplog)
    assert re.search(r"inert at step 3: .*; [\d,]+ stored weights differ from the base, by less than", verdict)


class Poison(TrainerCallback):
    """Makes one matrix NaN after a step, as a diverging run does."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            with torch.no_grad():
                model.model.layers[1].mlp.up_proj.weight.fill_(torch.nan)


def test_weights_that_are_not_finite_are_told_at_once_and_overwrite_no_checkpoint(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = watching(on_dense="stop", dense_thresholds=DenseThresholds())
    trainer = train(model, tmp_path, callback, Poison(), learning_rate=SMALL)
    assert trainer.state.global_step == 4
    assert not list(tmp_path.glob("checkpoint-*"))
    ((level, verdict),) = said(caplog)
    assert level == "WARNING"
    assert re.match(r"sparsity-monitor: non-finite at step 2: [\d,]+ of [\d,]+ visible weights are NaN", verdict)


@pytest.mark.parametrize("learning_rate", [SMALL, LARGE])
def test_watching_changes_no_loss(model: Path, tmp_path: Path, learning_rate: float) -> None:
    without = losses(train(model, tmp_path / "a", None, learning_rate=learning_rate))
    watched = losses(train(model, tmp_path / "b", watching(on_dense="warn"), learning_rate=learning_rate))
    assert len(watched) == 4
    assert watched == without


def control_of_a_process(on_dense: Any, *, writes_log: bool, logs: dict[str, object]) -> TrainerControl:
    watch = DenseWatch(on_dense, AT_ONCE, "bits in bfloat16", writes_log=writes_log, strict=False)
    control = TrainerControl()
    for step in (1, 2, 3):
        observation = observed(step, 9_000)
        watch.remember(logs)
        watch.answer(
            observation, watch.see(observation), TrainerAnswer(None, TrainerState(global_step=step), control, {})
        )
    return control


def test_a_process_that_writes_no_log_decides_alike(caplog: pytest.LogCaptureFixture) -> None:
    silent = control_of_a_process("stop", writes_log=False, logs={})
    assert not said(caplog)
    writing = control_of_a_process("stop", writes_log=True, logs={"grad_norm": 0.0})
    assert silent == writing
    assert silent.should_training_stop
    assert silent.should_save


def losing_all_but_what_changed(gone: torch.Tensor) -> list[Observation]:
    """Observe a tenth of a model train, until the rest becomes `gone` at step 5, and on."""
    model = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(10))
    observer = UpdateObserver(model)
    observations = []
    for step in range(1, 10):
        with torch.no_grad():
            model[9].weight += 1.0
        if step == 5:
            for layer in model[:9]:
                layer.weight.data = gone.clone()
        observations.append(observer.observe(step))
    return observations


@pytest.mark.parametrize("lose", ["emptied", "of another shape"])
def test_losing_weights_stops_no_sparse_training(lose: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nine of ten layers are lost at step 5, and all that is left has changed."""
    gone = torch.empty(0) if lose == "emptied" else torch.ones(3, 5)
    with pytest.warns(UserWarning, match="not measured any more"):
        observations = losing_all_but_what_changed(gone)
    watch = DenseWatch("stop", AT_ONCE, "bits in bfloat16", writes_log=True, strict=False)
    control = TrainerControl()
    seen = []
    for observation in observations:
        verdict = watch.see(observation)
        watch.answer(observation, verdict, TrainerAnswer(None, TrainerState(global_step=observation.step), control, {}))
        seen.append(verdict and verdict.kind)
    assert seen == [None, None, Kind.SPARSE, Kind.SPARSE, *[None] * 5]
    assert not control.should_training_stop
    assert observations[-1].cumulative_sparsity == 0.0
    assert [message for level, message in said(caplog) if level == "WARNING"] == [
        "sparsity-monitor: 576 of 640 trained weights are not measured any more, from step 5 on. A verdict is given, "
        "and on_dense answered, only where it is the same whatever became of them."
    ]


def test_losing_weights_keeps_no_dense_training_from_being_stopped() -> None:
    model = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(10))
    observer = UpdateObserver(model)
    watch = DenseWatch("stop", AT_ONCE, "bits in bfloat16", writes_log=True, strict=False)
    control = TrainerControl()
    model[0].weight.data = torch.empty(0)
    with torch.no_grad():
        for layer in model[1:]:
            layer.weight += 1.0
    with pytest.warns(UserWarning, match="not measured any more"):
        observation = observer.observe(1)
    watch.answer(observation, watch.see(observation), TrainerAnswer(None, TrainerState(global_step=1), control, {}))
    assert control.should_training_stop


def test_a_verdict_that_alternates_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    watch = DenseWatch("warn", AT_ONCE, "bits in bfloat16", writes_log=True, strict=False)
    changed = 3_000
    seen = []
    for step in range(51, 75):
        # A pace of 1 % per step, then one of none, by turns of two steps.
        changed += 100 if step // 2 % 2 else 0
        verdict = watch.see(observed(step, changed))
        seen.append(verdict and verdict.kind)
    assert {Kind.SPARSE, Kind.DENSIFYING} <= set(seen)
    assert len(said(caplog)) <= 2
