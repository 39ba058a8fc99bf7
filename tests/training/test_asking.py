"""A trainer's own vLLM is asked whether it serves the weights that train; a stand-in with vLLM's names is asked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

from monitor import SparsityCallback
from monitor.errors import ConfigurationError
from monitor.training import asking
from tests.spooled import spooled
from tests.tiny import common_arguments, grpo_trainer, online_dpo_trainer, rloo_trainer, save_model
from tests.training import vllm_stand_in
from tests.training.vllm_stand_in import LLM

MAKERS = {"grpo": grpo_trainer, "rloo": rloo_trainer, "online-dpo": online_dpo_trainer}


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_stand_in.install(monkeypatch)
    # On a busy machine, an answer may take longer than a training waits.
    monkeypatch.setattr(asking, "_PATIENCE_SECONDS", 120.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


class Before(TrainerCallback):  # type: ignore[misc]
    """Does something before a step."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self._step, self._act = step, act

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            self._act()


def trainer_of(kind: str, model: Path, output: Path, *callbacks: Any, **settings: Any) -> Trainer:
    settings = {"max_steps": 3, "gradient_accumulation_steps": 1, "learning_rate": 1e-3, "use_vllm": True} | settings
    return MAKERS[kind](model, common_arguments(output, **{"vllm_mode": "colocate"} | settings), list(callbacks))


def reported(callback: SparsityCallback, name: str) -> list[tuple[int, float]]:
    logs = spooled(callback, "training_log")
    return [(log.step, log.metrics[name]) for log in logs if name in log.metrics]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [each for each in caplog.records if each.name.startswith("monitor") and each.levelno >= logging.WARNING]
    assert not any(record.exc_info for record in records)
    return [record.getMessage() for record in records if "engine" in record.getMessage()]


@pytest.mark.parametrize(("kind", "sleeps"), [("grpo", False), ("rloo", False), ("online-dpo", True), ("grpo", True)])
def test_a_fresh_engine_is_no_news(
    kind: str, sleeps: bool, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(kind, model, tmp_path, vllm_enable_sleep_mode=sleeps)
    callback = SparsityCallback(None, strict=True).attach(trainer, served_every=1)
    trainer.train()
    assert reported(callback, "served_step") == [(0, 0), (1, 1), (2, 2)]
    assert reported(callback, "served_differing_groups") == [(0, 0), (1, 0), (2, 0)]
    assert said(caplog) == []
    assert LLM.made.asked == 3
    # It is left as it was.
    assert "generate" not in vars(LLM.made)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_an_engine_that_is_a_step_behind_is_found(
    kind: str, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(kind, model, tmp_path, Before(1, lambda: setattr(LLM.made, "behind", 1)))
    callback = SparsityCallback(None, strict=True).attach(trainer)
    trainer.train()
    # By its own interval it would have been asked twice; while it is behind, it is after each step.
    assert reported(callback, "served_step") == [(0, 0), (1, 0), (2, 1)]
    assert [bool(count) for _, count in reported(callback, "served_differing_groups")] == [False, True, True]
    (message,) = said(caplog)
    assert "the engine serves the weights of step 0, not those of step 1" in message


def test_a_layer_that_never_arrives_is_named(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of("grpo", model, tmp_path, Before(1, lambda: setattr(LLM.made, "leave_out", ("layers.1.",))))
    callback = SparsityCallback(None, strict=True).attach(trainer)
    trainer.train()
    differing = [count for _, count in reported(callback, "served_differing_groups")]
    assert differing[0] == 0 < differing[1] < len(callback.last_observation.groups)
    (message,) = said(caplog)
    assert "of layer 1 (those of step 0)" in message
    assert "of layer 0" not in message


def test_adapters_are_compared_as_they_are_merged(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from peft import LoraConfig

    trainer = trainer_of("grpo", model, tmp_path, max_steps=1)
    config = LoraConfig(target_modules=["q_proj", "up_proj"], r=2, init_lora_weights=False)
    adapted = type(trainer)(
        str(model),
        reward_funcs=trainer.reward_funcs,
        args=trainer.args,
        train_dataset=trainer.train_dataset,
        peft_config=config,
    )
    adapted.args.max_steps = 3
    callback = SparsityCallback(None, strict=True).attach(adapted, served_every=1)
    adapted.train()
    assert reported(callback, "served_differing_groups") == [(0, 0), (1, 0), (2, 0)]
    assert said(caplog) == []


def test_a_server_is_asked_by_the_trainers_client(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LLM(str(model))
    trainer = trainer_of("grpo", model, tmp_path, Before(2, lambda: setattr(LLM.made, "behind", 1)), vllm_mode="server")
    callback = SparsityCallback(None, strict=True).attach(trainer, served_every=1)
    with vllm_stand_in.served():
        trainer.vllm_generation.vllm_client.base_url = vllm_stand_in.Client.base_url
        trainer.train()
    assert reported(callback, "served_step") == [(0, 0), (1, 1), (2, 1)]
    (message,) = said(caplog)
    assert "the engine serves the weights of step 1, not those of step 2" in message


def test_engines_of_a_server_that_do_not_answer_are_told_of_once(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LLM(str(model))
    trainer = trainer_of("grpo", model, tmp_path, vllm_mode="server")
    callback = SparsityCallback(None, strict=True).attach(trainer, served_every=1)
    with vllm_stand_in.served(engines=3):
        trainer.vllm_generation.vllm_client.base_url = vllm_stand_in.Client.base_url
        trainer.train()
    assert reported(callback, "served_differing_groups") == [(0, 0), (1, 0), (2, 0)]
    (message,) = said(caplog)
    assert "of the 6 ranks of the vLLM server, 2 are asked" in message


@pytest.mark.parametrize(("every", "told"), [(10, 1), (0, 0)])
def test_an_asynchronous_trainer_is_not_asked_and_says_why(
    every: int, told: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainers = pytest.importorskip("trl.experimental.async_grpo", reason="trl has no asynchronous trainer")
    arguments = trainers.AsyncGRPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    asking.AskedEngine.of(None, arguments, every, strict=False)
    messages = [each for each in caplog.messages if "generates all the time" in each]
    assert len(messages) == told
    assert all("served()" in each for each in messages)


def test_a_server_that_cannot_tell_is_named_once(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LLM(str(model))
    trainer = trainer_of("grpo", model, tmp_path, vllm_mode="server")
    callback = SparsityCallback(None).attach(trainer, served_every=1)
    with vllm_stand_in.served(status=500):
        trainer.vllm_generation.vllm_client.base_url = vllm_stand_in.Client.base_url
        trainer.train()
    (message,) = said(caplog)
    assert "whether it serves the weights that train: its /collective_rpc answers 500" in message
    assert "--worker-extension-cls monitor.observe.served.worker.WorkerExtension" in message
    assert LLM.made.asked == 1
    assert reported(callback, "served_differing_groups") == []
    assert callback.last_observation.step == 3


def test_a_server_that_does_not_answer_is_waited_for_once(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_PATIENCE_SECONDS", 0.0)
    LLM(str(model))
    trainer = trainer_of("grpo", model, tmp_path, vllm_mode="server")
    SparsityCallback(None).attach(trainer, served_every=1)
    with vllm_stand_in.served(waits_for=threading.Event()):
        trainer.vllm_generation.vllm_client.base_url = vllm_stand_in.Client.base_url
        trainer.train()
    (message,) = said(caplog)
    assert "it did not answer until 0 s after the step" in message


def test_an_engine_that_raises_does_not_end_the_training(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def break_it() -> None:
        LLM.made.broken = RuntimeError("CUDA out of memory")

    trainer = trainer_of("grpo", model, tmp_path, Before(1, break_it))
    callback = SparsityCallback(None).attach(trainer, served_every=1)
    trainer.train()
    (message,) = said(caplog)
    assert message.endswith("asking it fails with RuntimeError: CUDA out of memory")
    assert reported(callback, "served_step") == [(0, 0)]
    assert callback.last_observation.step == 3


def test_an_engine_that_does_not_generate_is_named(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where samples are from elsewhere: else it would be looked for at each step, and nothing be known."""
    trainer = trainer_of("grpo", model, tmp_path)
    callback = SparsityCallback(None).attach(trainer, served_every=1)
    trainer.add_callback(Before(0, lambda: setattr(trainer.vllm_generation, "llm", LLM(str(model)))))
    trainer.train()
    (message,) = said(caplog)
    assert "in 3 steps in which it was to be asked, the trainer did not generate with the vLLM" in message
    assert reported(callback, "served_groups") == []


def test_an_engine_with_other_names_is_asked_once(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of("grpo", model, tmp_path)
    LLM.made.leave_out = ("model.", "lm_head")
    callback = SparsityCallback(None).attach(trainer)
    trainer.train()
    (message,) = said(caplog)
    assert "because no name is in both: none there" in message
    assert LLM.made.asked == 1
    assert reported(callback, "served_groups") == []


def test_a_callback_without_the_trainer_says_so(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer_of("grpo", model, tmp_path, SparsityCallback(None), max_steps=1).train()
    (message,) = [record.getMessage() for record in caplog.records if "attach(trainer)" in record.getMessage()]
    assert message.startswith("sparsity-monitor: whether vLLM serves the weights that train is not looked at, because")
    assert LLM.made.asked == 0


def test_asking_does_not_disturb_the_training(model: Path, tmp_path: Path) -> None:
    def train(every: int) -> tuple[list[Any], dict[str, torch.Tensor]]:
        trainer = trainer_of("grpo", model, tmp_path / str(every), max_steps=2)
        SparsityCallback(None, strict=True).attach(trainer, served_every=every)
        trainer.train()
        assert LLM.made.asked == (2 if every else 0)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return losses, trainer.model.state_dict()

    (asked, weights), (unasked, others) = train(1), train(0)
    assert asked == unasked
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("given", [-1, 1.5, None])
def test_an_interval_that_is_none_is_refused(given: Any, model: Path, tmp_path: Path) -> None:
    attach = partial(SparsityCallback(None).attach, trainer_of("grpo", model, tmp_path), served_every=given)
    with pytest.raises(ConfigurationError, match=r"served_every is .*; expected a number of steps, 0 for never"):
        attach()
