"""How large the base is, against numpy in float64."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from monitor.observe.base.norms import squared_norm
from monitor.observe.observer import UpdateObserver

NASTY = [0.0, -0.0, 1.5, -2.75, 1e-40, 3e38, -3e38, float("inf"), float("-inf"), float("nan"), 2**-133, 65504.0]


def expected(weights: torch.Tensor) -> float:
    """Σ w² over finite weights, of what float64 holds exactly."""
    values = weights.detach().to(torch.float64).numpy().reshape(-1)
    return float(math.fsum(np.square(values[np.isfinite(values)])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_is_the_sum_over_finite_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    # More than one chunk, and not a whole number of them.
    weights = torch.randn(40_001).to(dtype)
    weights[: len(NASTY)] = torch.tensor(NASTY).to(dtype)
    assert float(squared_norm(weights)) == pytest.approx(expected(weights), rel=1e-12)
    halves = torch.randn(60, 50).to(dtype).t()[::2]
    assert float(squared_norm(halves)) == pytest.approx(expected(halves), rel=1e-12)
    assert float(squared_norm(weights[:0])) == 0


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(50, 70), nn.Linear(70, 30), nn.Linear(30, 20))


def squares(module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> float:
    return sum(expected(parameter.to(dtype)) for parameter in module.parameters())


@pytest.mark.parametrize("base_mode", ["device", "host", "low_byte"])
def test_the_relative_norm_is_of_visible_weights_however_the_base_is_kept(base_mode: str) -> None:
    trained = model().to(torch.bfloat16)
    with torch.no_grad():
        trained[1].weight[0, :3] = torch.tensor([float("inf"), float("nan"), 0.0])
    base = copy.deepcopy(trained)
    observer = UpdateObserver(trained, base_mode=base_mode)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.01)
    observation = observer.observe(1)
    assert observation.base_squared_norm is not None
    assert observation.base_squared_norm == pytest.approx([squares(each) for each in base], rel=1e-12)
    deltas = [p.double() - q.double() for p, q in zip(trained.parameters(), base.parameters(), strict=True)]
    update = sum(expected(delta) for delta in deltas)
    assert observation.relative_norm == pytest.approx(math.sqrt(update / squares(base)), rel=1e-6)


def test_masters_are_rounded_to_the_visible_dtype_first() -> None:
    visible = [squares(each) for each in model()]
    assert UpdateObserver(model()).base_squared_norm == pytest.approx(visible, rel=1e-12)
    assert visible != pytest.approx([squares(each, torch.float32) for each in model()], rel=1e-12)


def test_a_base_of_its_own_is_what_counts() -> None:
    base = {name: 3 * tensor for name, tensor in model().state_dict().items()}
    observer = UpdateObserver(model(), base=base)
    expected_squares = sum(expected(tensor.to(torch.bfloat16)) for tensor in base.values())
    assert observer.base_squared_norm.sum() == pytest.approx(expected_squares, rel=1e-12)


def test_frozen_weights_are_not_in_it_and_those_that_come_late_are_as_they_were_then() -> None:
    trained = model()
    trained[2].requires_grad_(False)
    observer = UpdateObserver(trained)
    first, second = squares(trained[0]), squares(trained[1])
    assert observer.base_squared_norm == pytest.approx([first, second, 0], rel=1e-12)
    with torch.no_grad():
        trained[0].weight.mul_(2)
    assert observer.observe(1).base_squared_norm == pytest.approx([first, second, 0], rel=1e-12)
    trained[2].requires_grad_(True)
    observer.follow(trained)
    late = squares(trained[2])
    with torch.no_grad():
        trained[2].weight.mul_(2)
    assert observer.observe(2).base_squared_norm == pytest.approx([first, second, late], rel=1e-12)


def test_what_is_lost_is_in_neither_sum() -> None:
    trained = model()
    observer = UpdateObserver(trained)
    first, second, _ = (squares(each) for each in trained)
    trained[2] = nn.Linear(5, 5)
    with pytest.warns(UserWarning, match="not measured any more"):
        observation = observer.observe(1)
    assert observation.base_squared_norm == pytest.approx([first, second, 0], rel=1e-12)


def test_a_base_of_zeros_has_no_relative_norm() -> None:
    zeros = nn.Linear(4, 4, bias=False)
    nn.init.zeros_(zeros.weight)
    observer = UpdateObserver(zeros)
    with torch.no_grad():
        zeros.weight.fill_(1)
    assert math.isnan(observer.observe(1).relative_norm or 0)
