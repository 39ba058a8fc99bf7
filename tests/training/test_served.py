"""Whether an engine serves the weights that train: found out in a loop of one's own, and in a Trainer's."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

import monitor
from monitor import SparsityCallback, Watch, fingerprint
from monitor.errors import ConfigurationError
from tests.observe.served.engine import Engine, config, parameters
from tests.spooled import spooled
from tests.tiny import common_arguments, plain_trainer, save_model

SHAPE = config()
LOGGER = "monitor.training.served"


class Policy(nn.Module):
    """Has the parameters of a model that the stand-in engine can load, and trains them all."""

    def __init__(self) -> None:
        super().__init__()
        for name, weights in parameters(SHAPE).items():
            path, _, last = name.rpartition(".")
            module: nn.Module = self
            for part in path.split("."):
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(last, nn.Parameter(weights))


class Training:
    """A loop on a policy, which hands its weights to an engine of two tensor-parallel ranks."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.policy, self.engine = Policy(), Engine(SHAPE, 2)
        self.watch = monitor.watch(self.policy, None, output_dir=directory, **settings)
        self._optimizer = torch.optim.SGD(self.policy.parameters(), lr=0.1)
        self.count = 0

    def step(self) -> None:
        self.update()
        self.count += 1
        self.watch.step(self.count)

    def update(self) -> None:
        for weights in self.policy.parameters():
            weights.grad = torch.ones_like(weights)
        self._optimizer.step()

    def sync(self, *leave_out: str) -> None:
        self.engine.load(dict(self.policy.named_parameters()), leave_out)

    def served(self, step: int | None = None) -> Any:
        return self.watch.served(self.engine.fingerprints(), step)


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path, strict=True)


def reported(directory: Path, name: str) -> list[tuple[int, float]]:
    logs = spooled(SimpleNamespace(directory=directory / "sparsity_monitor"), "training_log")  # type: ignore[arg-type]
    return [(log.step, log.metrics[name]) for log in logs if name in log.metrics]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_engine_that_serves_what_trains_is_no_news(
    training: Training, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with training.watch:
        for step in (0, 1, 2):
            training.sync()
            found = training.served()
            assert (found.step, found.expected_step, found.is_expected) == (step, step, True)
            assert not found.differing
            assert not found.only_trained + found.only_served
            training.step()
    assert found.groups == len(training.watch.last_observation.groups)
    assert said(caplog) == []
    assert reported(tmp_path, "served_step") == [(0, 0), (1, 1), (2, 2)]
    assert reported(tmp_path, "served_differing_groups") == [(0, 0), (1, 0), (2, 0)]


def test_an_engine_that_is_a_step_behind_is_found_and_said_once(
    training: Training, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with training.watch:
        training.step()
        training.sync()
        training.served()
        for step in (2, 3):
            training.step()
            found = training.served()
            assert (found.step, found.expected_step, found.is_expected) == (1, step, False)
            assert len(found.differing) == found.groups
            assert set(found.differing.values()) == {1}
    (message,) = said(caplog)
    assert message.startswith("sparsity-monitor: the engine serves the weights of step 1, not those of step 2. Later")
    assert "hand them over again and call served() again" in message
    assert reported(tmp_path, "served_differing_groups")[1:] == [(2, found.groups), (3, found.groups)]
    assert reported(tmp_path, "served_step") == [(1, 1), (2, 1), (3, 1)]


def test_a_layer_that_is_left_out_is_named(
    training: Training, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with training.watch:
        training.sync()
        training.served()
        training.step()
        training.sync("layers.1.mlp.", "layers.0.self_attn.k_proj")
        found = training.served()
    parts = ("gate_proj", "up_proj", "down_proj")
    expected = {"self_attn.k_proj of layer 0": 0, **{f"mlp.{part} of layer 1": 0 for part in parts}}
    assert found.differing == expected
    assert found.step is None
    (message,) = said(caplog)
    assert "does not serve the weights of step 1 in 4 of 19 groups: self_attn.k_proj of layer 0 (those of" in message
    assert reported(tmp_path, "served_step") == [(0, 0)]


def test_one_rank_that_is_behind_is_found(training: Training) -> None:
    with training.watch:
        training.sync()
        behind = training.engine.fingerprints()
        training.step()
        training.sync()
        now = training.engine.fingerprints()
        assert training.watch.served(now).is_expected
        found = training.watch.served([now[0], behind[1]])
    assert len(found.differing) == found.groups
    assert found.step is None


def test_weights_of_no_kept_step_are_said_to_be_so(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    with training.watch:
        training.sync()
        training.step()
        assert training.served().step is None
    (message,) = said(caplog)
    assert "serves none of the weights of step 1, nor of any other step whose fingerprints are kept (1)" in message


def test_an_engine_that_goes_on_beside_the_training_is_asked_for_the_step_it_got(
    training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    with training.watch:
        training.step()
        training.sync()
        assert training.watch.fingerprint() == fingerprint(training.policy.named_parameters())
        training.step()
        training.update()
        found = training.served(1)
        assert (found.step, found.is_expected) == (1, True)
        training.count += 1
        training.watch.step(training.count)
        training.sync()
        training.watch.fingerprint()
        ahead = training.served(1)
        assert (ahead.step, ahead.is_expected) == (3, False)
        assert "It has been handed later ones since; give served() the step" in said(caplog)[-1]
        with pytest.raises(
            ConfigurationError, match=r"step 2, whose fingerprints are not kept. Kept are those of steps 1, 3:"
        ):
            training.served(2)


def test_weights_of_an_unknown_step_are_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Else they would be kept as those of the step before, and a healthy engine be blamed."""
    training = Training(tmp_path)
    with training.watch:
        training.step()
        # Another model's, as a critic's, is none of them.
        other = nn.Linear(2, 2)
        other.weight.grad = torch.ones(2, 2)
        torch.optim.SGD(other.parameters(), lr=1.0).step()
        training.sync()
        assert training.served().is_expected
        training.update()
        training.sync()
        assert training.served() is None
        assert training.watch.fingerprint() is None
        training.count += 1
        training.watch.step(training.count)
        assert training.served().is_expected
    (message,) = said(caplog)
    assert "watch.served() was called after an optimizer step that watch.step() was not told of" in message


@pytest.mark.parametrize("given", [None, 3, "model.norm", [{"model.norm.weight": 1}, 2], {"model.norm.weight": "1"}])
def test_what_are_no_fingerprints_is_said_in_words(
    given: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Training(tmp_path).watch
    with watch:
        assert watch.served(given) is None
    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert "expected what monitor.fingerprint() returns for the engine's tensors" in record.getMessage()
    assert record.exc_info is None


def small(directory: Path, model: nn.Module, **settings: Any) -> Watch:
    return monitor.watch(model, None, output_dir=directory, strict=True, **settings)


def test_names_on_one_side_alone_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    whole = fingerprint(model.named_parameters())
    with small(tmp_path, model) as watch:
        for _ in range(2):
            found = watch.served({name: number for name, number in whole.items() if name != "1.bias"} | {"more": 1})
        assert found.is_expected
        assert (found.only_trained, found.only_served) == (("1.bias",), ("more",))
        (message,) = said(caplog)
        assert (
            "with what trains: the engine did not give 1.bias, and what is measured here lacks more. On the engine's"
            in message
        )
        caplog.clear()
        none = watch.served({f"model.{name}": number for name, number in whole.items()})
    assert (none.groups, none.step, none.is_expected) == (0, None, False)
    assert [step for step, _ in reported(tmp_path, "served_differing_groups")] == [0, 0]
    (message,) = said(caplog)
    assert "because no name is in both: model.0.weight, model.0.bias and 2 more there, 0.weight, 0.bias" in message


@pytest.mark.parametrize("names", [("0.weight", "1.weight"), ("0.weight",), ("1.weight",)])
def test_tied_weights_are_served_under_any_of_their_names(names: tuple[str, ...], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    whole = fingerprint(model.named_parameters(remove_duplicate=False))
    with small(tmp_path, model) as watch:
        found = watch.served({name: whole[name] for name in names})
        assert found.is_expected
        assert found.only_trained + found.only_served == ()
        stale = watch.served({name: whole[name] + int(name == names[-1]) for name in names})
        assert list(stale.differing) == ["0"]


def test_frozen_weights_are_compared_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    whole = fingerprint(model.named_parameters())
    with small(tmp_path, model) as watch:
        assert watch.served(whole).is_expected
        assert list(watch.served(whole | {"0.bias": 1}).differing) == ["0"]


class Generating(TrainerCallback):
    """Hands bfloat16 weights to an engine after the first step alone, and asks what it serves after each."""

    def __init__(self, callback: SparsityCallback) -> None:
        self._callback = callback
        self.found: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            model = kwargs["model"]
            self._engine = Engine(model.config, 2).load({n: p.bfloat16() for n, p in model.named_parameters()})
        self.found.append(self._callback.served(self._engine.fingerprints()))
        if state.global_step == 2:
            self.found.append(self._callback.served("nothing"))  # type: ignore[arg-type]
            assert self._callback.fingerprint() is not None


@pytest.mark.parametrize("tied", [False, True])
def test_a_callback_tells_it_of_a_trainers_model(tied: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = SparsityCallback(None)
    assert callback.served({}) is None
    generating = Generating(callback)
    model = save_model(tmp_path / "model", tied=tied)
    arguments = common_arguments(tmp_path / "out", max_steps=2, eval_strategy="no")
    plain_trainer(model, arguments, [callback, generating]).train()
    fresh, stale, wrong = generating.found
    assert (fresh.step, fresh.is_expected) == (1, True)
    assert fresh.only_trained + fresh.only_served == ()
    assert (stale.step, stale.expected_step) == (1, 2)
    assert wrong is None
    behind, misused = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert "the engine serves the weights of step 1, not those of step 2" in behind.getMessage()
    assert "served() was given 'nothing'; expected what monitor.fingerprint() returns" in misused.getMessage()
    assert misused.exc_info is None
    differing = [
        log.metrics["served_differing_groups"]
        for log in spooled(callback, "training_log")
        if "served_step" in log.metrics
    ]
    assert differing == [0, len(stale.differing)]


def test_asking_does_not_disturb_the_training(tmp_path: Path) -> None:
    def train(asking: bool) -> tuple[torch.Tensor, dict[str, int]]:
        torch.manual_seed(0)
        training = Training(tmp_path / str(asking))
        with training.watch:
            for _ in range(2):
                if asking:
                    training.sync()
                    training.served()
                training.step()
        return torch.rand(()), fingerprint(training.policy.named_parameters())

    assert train(asking=True) == train(asking=False)
