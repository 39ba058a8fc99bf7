"""What happens to frozen weights while others are taken up: nothing that is measured is forgotten."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from monitor.errors import UnsupportedModelError
from monitor.observe.observer import UpdateObserver


def two_frozen_layers() -> nn.Sequential:
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3)))
    model[1].requires_grad_(False)
    model[2].requires_grad_(False)
    return model


def test_taking_up_a_weight_that_is_lost_leaves_the_others_as_they_are() -> None:
    model = two_frozen_layers()
    observer = UpdateObserver(model)
    model[1].requires_grad_(True)
    observer.follow(model)
    with torch.no_grad():
        model[1].weight += 1.0
    assert observer.observe(1).changed.sum() == 64
    model[2].weight.data += 1.0
    with pytest.warns(UserWarning, match="2.weight: written to although"):
        observer.compare(1)
    model[2].requires_grad_(True)
    observer.follow(model)
    observation = observer.observe(2)
    assert observation.changed.sum() == 64
    assert observation.unmeasured is not None
    assert observation.unmeasured.sum() == 64


def test_a_fused_step_before_a_weight_is_seen_to_train_is_noticed() -> None:
    """Fused optimizers write without raising the tensor's version."""
    model = two_frozen_layers()
    observer = UpdateObserver(model)
    model[1].requires_grad_(True)
    model(torch.randn(4, 8)).sum().backward()
    torch.optim.AdamW(model.parameters(), lr=1.0, fused=True).step()
    with pytest.warns(UserWarning, match="written to before the monitor saw that they are trainable"):
        observer.follow(model)
    observation = observer.observe(1)
    assert observation.unmeasured is not None
    assert observation.unmeasured.sum() == 64


def test_when_nothing_is_left_every_further_observation_says_so() -> None:
    model = nn.Linear(8, 8, bias=False)
    observer = UpdateObserver(model)
    model.weight.data = torch.empty(0)
    for step in (1, 2):
        with (
            pytest.raises(UnsupportedModelError, match="nothing is left to measure: weight is"),
            pytest.warns(UserWarning, match="not measured any more") if step == 1 else nullcontext(),
        ):
            observer.observe(step)
