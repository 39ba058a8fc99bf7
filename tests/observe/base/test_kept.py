"""How the base is kept: what it costs, and that it measures the same."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from monitor.observe.base.mode import BaseMode
from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver

WEIGHTS = 64 * 48


def a_model(dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    torch.manual_seed(0)
    # Values of bfloat16 in every dtype, as loaded from a checkpoint.
    return nn.Linear(64, 48, bias=False).to(torch.bfloat16).to(dtype)


def train(model: nn.Linear, steps_apart: int = 3) -> None:
    """Move every tenth weight to a value that is `steps_apart` representable bfloat16 values away."""
    with torch.no_grad():
        weights = model.weight.to(torch.bfloat16).view(-1)
        weights[::10] = (weights[::10].view(torch.int16) + steps_apart).view(torch.bfloat16)
        model.weight.copy_(weights.view(model.weight.shape))


def counts(observation: Observation) -> list[object]:
    arrays = [observation.changed, observation.newly_changed, observation.reverted, observation.hidden]
    at = list(observation.changed_at.values())
    return [*(a.tolist() for a in [*arrays, *at, observation.max_abs]), observation.squared_norm.round(12).tolist()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mode", ["device", "host", "low_byte"])
def test_every_mode_counts_the_same(dtype: torch.dtype, mode: str) -> None:
    model = a_model(dtype)
    initial = copy.deepcopy(model)
    observer = UpdateObserver(model, base_mode=mode, tolerances=[1e-4])
    other = UpdateObserver(model, base=initial, tolerances=[1e-4])
    for step in (1, 2, 3):
        train(model)
        found, expected = observer.observe(step), other.observe(step)
        assert found.base_mode == mode
        assert counts(found) == counts(expected)
    assert observer.base_fingerprint == other.base_fingerprint


@pytest.mark.parametrize(("mode", "base_bytes"), [("device", 2), ("low_byte", 1)])
def test_bytes_per_weight(mode: str, base_bytes: int) -> None:
    masks = 2 / 8
    observer = UpdateObserver(a_model(), base_mode=mode)
    assert observer.monitor_bytes / WEIGHTS == base_bytes + 1 + masks
    without_steps = UpdateObserver(a_model(), base_mode=mode, step_masks=False)
    assert without_steps.monitor_bytes / WEIGHTS == base_bytes + 1 / 8


def test_float32_masters_of_a_bfloat16_checkpoint_have_a_base_of_two_bytes() -> None:
    assert UpdateObserver(a_model(torch.float32), step_masks=False).monitor_bytes / WEIGHTS == 2 + 1 / 8


def test_a_module_is_used_where_it_is() -> None:
    model = a_model()
    reference = copy.deepcopy(model)
    observer = UpdateObserver(model, base=reference)
    assert observer.base_mode is BaseMode.SHARED
    assert observer.monitor_bytes == WEIGHTS * (1 + 2 / 8)
    with torch.no_grad():
        model.weight[0, 0] += 1.0
    assert observer.observe(1).changed.tolist() == [1]


def test_low_bytes_are_exact_below_128_representable_steps() -> None:
    for apart, exact in ((127, True), (-127, True), (128, False), (256, False)):
        model = a_model()
        initial = copy.deepcopy(model)
        low, full = UpdateObserver(model, base_mode="low_byte"), UpdateObserver(model, base=initial)
        train(model, apart)
        assert (counts(low.observe(1)) == counts(full.observe(1))) is exact


def test_a_base_that_rounds_keeps_its_bytes_so_that_hidden_is_right(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 48, bias=False)
    # Of no weights, low bytes are no bytes.
    model.register_parameter("empty", nn.Parameter(torch.zeros(0)))
    with caplog.at_level(logging.WARNING):
        observer = UpdateObserver(model, base_mode="low_byte")
    with torch.no_grad():
        model.weight.mul_(1 + 1e-6)
    observation = observer.observe(1)
    assert observation.base_mode == "device", "nothing of it is inexact"
    assert "cannot keep the base as low bytes: none of its weights are values of bfloat16" in caplog.text
    assert observation.hidden.sum() > 0.9 * WEIGHTS
    assert observation.hidden.sum() + observation.changed.sum() == WEIGHTS


def test_a_base_of_which_some_is_kept_as_low_bytes_says_so() -> None:
    model = nn.Sequential(a_model(torch.float32), nn.Linear(48, 48, bias=False))
    observer = UpdateObserver(model, base_mode="low_byte", step_masks=False)
    assert observer.observe(1).base_mode == "low_byte"
    assert observer.monitor_bytes == WEIGHTS * (1 + 1 / 8) + 48 * 48 * (4 + 1 / 8)


def test_the_step_mask_compares_low_bytes_and_misses_only_changed_weights_that_move_256_steps() -> None:
    model = a_model()
    observer = UpdateObserver(model)
    train(model, 256)
    entered = observer.observe(1)
    assert (entered.changed.tolist(), entered.step_changed) == ([308], np.array([308]))
    train(model, 256)
    assert observer.observe(2).step_changed == np.array([0])
    train(model, 255)
    assert observer.observe(3).step_changed == np.array([308])


def test_frozen_parameters_take_no_memory() -> None:
    model = nn.Sequential(a_model(), a_model())
    model[0].requires_grad_(False)
    assert UpdateObserver(model).monitor_bytes == UpdateObserver(a_model()).monitor_bytes


_PEAK = """
import re
from pathlib import Path
import torch
from monitor.observe import observer
from monitor.observe.base import mode as base_mode

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

model = torch.nn.Linear(8192, 8192, bias=False, dtype=torch.bfloat16).float()
observer.UpdateObserver(torch.nn.Linear(64, 64), base_mode="low_byte", step_masks=False)
before = peak()
observed = observer.UpdateObserver(model, base_mode="low_byte", step_masks=False)
print(peak() - before, observed.monitor_bytes / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_taking_low_bytes_of_float32_weights_takes_no_other_copies_of_them() -> None:
    result = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    peak, kept = map(float, result.stdout.split())
    assert kept == 64 + 8
    # The fingerprint has the bfloat16 weights, 128 MB, before there is a base.
    assert peak < 160


def test_float32_masters_of_a_bfloat16_checkpoint_take_a_bfloat16_base() -> None:
    master = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False)).to(torch.bfloat16).to(torch.float32)
    weights = sum(p.numel() for p in master.parameters())
    words = sum(-(-p.numel() // 32) for p in master.parameters())
    observer = UpdateObserver(master, step_masks=False)
    assert observer.monitor_bytes == 2 * weights + 4 * words
    with torch.no_grad():
        # Too little to be seen in bfloat16, but not the weight that it was.
        master[0].weight *= 1 + 1e-6
    observation = observer.observe(1)
    assert (observation.changed.sum(), observation.hidden.sum()) == (0, 35)
