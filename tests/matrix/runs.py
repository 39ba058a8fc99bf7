"""Trainings with and without the callback, whose saved weights and losses are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Trainer, TrainerCallback

from monitor import Observation, SparsityCallback
from tests.counting import changed_by_group

Groups = dict[tuple[str, str], int]
# What a log says about the clock differs from run to run.
_TIMINGS = ("_runtime", "_per_second", "step_time", "time")


@dataclass(frozen=True)
class Run:
    """What is left of a training.

    Attributes:
        logs: everything that the trainer logged, but for timings.
        weights: the weights at the end.
        initial, final: directories of the weights at the start and at the end.
        callback: the one that observed; None if none did.
    """

    logs: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]
    initial: Path
    final: Path
    callback: SparsityCallback | None

    @property
    def losses(self) -> list[float]:
        return [entry["loss"] for entry in self.logs if "loss" in entry]

    @property
    def observation(self) -> Observation:
        """The last observation."""
        assert self.callback is not None
        assert self.callback.last_observation is not None
        return self.callback.last_observation

    def expected(self) -> Groups:
        """Count what changed in the saved weights, by none of the package's code."""
        return changed_by_group(self.initial, self.final)


def recording(**settings: Any) -> SparsityCallback:
    """A callback that reports to nobody; its spool holds what it would have sent."""
    return SparsityCallback(None, "matrix", **settings)


def save_as_trainer(trainer: Trainer, directory: Path) -> None:
    """Save the weights as the trainer's user does."""
    trainer.save_model(str(directory))


def save_parameters(trainer: Trainer, directory: Path) -> None:
    """Save the parameters under the names that they have in memory; on disk, experts and towers have others."""
    directory.mkdir(parents=True)
    weights = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    save_file(weights, directory / "model.safetensors")


def train(
    make: Callable[[list[TrainerCallback]], Trainer],
    directory: Path,
    callback: SparsityCallback | None,
    save: Callable[[Trainer, Path], None] = save_as_trainer,
) -> Run:
    """Train, and save the weights before and after."""
    trainer = make([callback] if callback else [])
    save(trainer, directory / "initial")
    trainer.train()
    save(trainer, directory / "final")
    logs = [
        {key: value for key, value in entry.items() if not key.endswith(_TIMINGS)}
        for entry in trainer.state.log_history
    ]
    weights = {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}
    return Run(logs, weights, directory / "initial", directory / "final", callback)


def counts(observation: Observation) -> Groups:
    """The changed weights of an observation, named as the metrics' labels are."""
    return {
        ("-" if group.layer is None else f"{group.layer:02d}", group.module): int(changed)
        for group, changed in zip(observation.groups, observation.changed, strict=True)
    }


def assert_counts_are_those_of_the_saved_weights(run: Run) -> None:
    expected = run.expected()
    assert sum(expected.values()) > 0, "a training that changes nothing proves nothing"
    assert counts(run.observation) == expected


def assert_same_training(monitored: Run, alone: Run) -> None:
    assert monitored.callback is not None
    assert alone.callback is None
    assert len(alone.losses) > 1
    # As text: NaN equals NaN there.
    assert repr(monitored.logs) == repr(alone.logs)
    assert monitored.weights.keys() == alone.weights.keys()
    for name, weights in alone.weights.items():
        assert torch.equal(monitored.weights[name], weights), name
