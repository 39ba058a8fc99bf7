"""The callback's part in the order of streams: what the Trainer calls, in its order, on a model of CUDA.

The model stands in for CUDA because none is there; tests/observe/cuda_model says what it has of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from monitor import SparsityCallback, UpdateMask
from tests.observe.cuda_model import CudaModel
from tests.observe.mutation import mutate

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the real one is there")
STEPS = 5
WAIT = "self._run.let_updates_wait()"


class Loop:
    """A Trainer's loop around the callback.

    Args:
        early: the optimizer changes weights within the backward pass, as LOMO does.
        every: optimizer steps between observations.
    """

    def __init__(self, cuda: CudaModel, directory: Path, *, early: bool = False, **settings: Any) -> None:
        self._cuda = cuda
        self._early = early
        self._args = TrainingArguments(str(directory), use_cpu=True, optim="lomo" if early else "sgd", report_to=[])
        self._state, self._control = TrainerState(), TrainerControl()
        self.model = nn.Module()
        self.model.weight = nn.Parameter(cuda.tensor(torch.ones(50, 70, dtype=torch.bfloat16), "the weights"))
        self.callback = SparsityCallback(None, "test", strict=True, **settings)
        self.changed: list[int] = []

    def event(self, name: str, **kwargs: Any) -> None:
        """Call the callback as the Trainer does."""
        with self._cuda.doing(name):
            getattr(self.callback, name)(self._args, self._state, self._control, model=self.model, **kwargs)

    def step(self, *, save: bool) -> None:
        """Train one step: one more weight moves."""
        with self._cuda.nobody_waits():
            self.event("on_step_begin")
            self._read()
            if self._early:
                self.write(self._state.global_step + 1)
            self.event("on_pre_optimizer_step")
            if not self._early:
                self.write(self._state.global_step + 1)
        self._state.global_step += 1
        self._control.should_save = save
        self.event("on_step_end")
        self._read()
        if save:
            self.event("on_save")
        self.event("on_log", logs={"loss": 1.0})
        if self.callback.last_observation is not None:
            self.changed.append(int(self.callback.last_observation.changed.sum()))

    def run(self) -> None:
        """Train, with a checkpoint half way and the best model loaded at the end of the epoch."""
        self.event("on_train_begin")
        for step in range(STEPS):
            self.step(save=step == STEPS // 2)
        self.event("on_epoch_end")
        with self._cuda.doing("the best model's loading"), torch.no_grad():
            self.model.weight.copy_(self.model.weight.clone())
        self.event("on_train_end")

    def write(self, moved: int) -> None:
        """Change the weights as the optimizer does."""
        with self._cuda.doing("the optimizer's step"), torch.no_grad():
            self.model.weight.view(-1)[:moved].fill_(2.0)

    def _read(self) -> None:
        with self._cuda.doing("the forward pass"), torch.no_grad():
            self.model.weight.sum()


def run(directory: Path, **settings: Any) -> tuple[Loop, list[str]]:
    with CudaModel() as cuda:
        loop = Loop(cuda, directory, **settings)
        loop.run()
        return loop, cuda.faults


@pytest.mark.parametrize("settings", [{}, {"early": True}, {"every": 2}, {"base_mode": "host"}])
def test_a_training_waits_for_what_is_observed_beside_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    loop, faults = run(tmp_path, **{"base_mode": "device"} | settings)
    assert not faults, "\n".join(faults)
    assert loop.callback.last_observation is not None
    assert loop.callback.last_observation.changed.sum() == STEPS
    assert loop.changed == sorted(loop.changed)
    assert UpdateMask.load(loop.callback.directory / "update_mask.safetensors").count() == STEPS


@pytest.mark.parametrize(
    ("event", "settings", "fault"),
    [
        ("on_pre_optimizer_step", {}, "fill_ in the optimizer's step .* while the kernel in on_step_end"),
        ("on_step_begin", {"early": True}, "fill_ in the optimizer's step .* while the kernel in on_step_end"),
        ("on_epoch_end", {}, "copy_ in the best model's loading .* while the kernel in on_step_end"),
    ],
)
def test_each_of_its_waits_is_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, event: str, settings: dict[str, Any], fault: str
) -> None:
    guarded: Callable[..., None] = getattr(SparsityCallback, event)
    monkeypatch.setattr(SparsityCallback, event, guarded.__wrapped__)
    mutate(monkeypatch, SparsityCallback, event, WAIT, "pass")
    _, faults = run(tmp_path, base_mode="device", **settings)
    assert any(re.search(fault, found) for found in faults), "\n".join(faults)
