"""Observations that are started after one step and collected later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from monitor.observe.masks.mask import UpdateMask
from monitor.observe.observer import UpdateObserver
from tests.gpu.target import DEVICE, full_or_small, needs_gpu, nobody_waits


def train(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[::3] += 1.0


def test_what_is_started_is_what_observe_would_have_returned() -> None:
    model = nn.Linear(33, 5)
    now, later = UpdateObserver(model), UpdateObserver(model)
    expected = []
    for step in (2, 3):
        train(model)
        expected.append(now.observe(step))
        later.start(step)
        later.before_update()
    found = later.collect()
    assert [(o.step, o.stride, o.changed.tolist()) for o in found] == [
        (o.step, o.stride, o.changed.tolist()) for o in expected
    ]
    assert later.collect() == []


def test_the_cost_is_a_share_of_the_time_since_the_previous_observation() -> None:
    model = nn.Linear(33, 5)
    observer = UpdateObserver(model)
    first, second = observer.observe(1), observer.observe(2)
    assert first.overhead is None
    assert second.overhead is not None
    assert 0 < second.overhead <= 1
    assert second.host_seconds > 0


class Walked(nn.Linear):
    """Says when somebody walks through its parameters."""

    def __init__(self, walked: Callable[[], None]) -> None:
        super().__init__(33, 5)
        self.walked = walked

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        self.walked()
        return super().named_parameters(*args, **kwargs)


def test_what_is_done_between_observations_is_a_part_of_their_cost() -> None:
    model = Walked(lambda: None)
    observer = UpdateObserver(model)
    model.walked = lambda: time.sleep(0.25)
    observer.follow(model)
    model.walked = lambda: None
    first, second = observer.observe(1), observer.observe(2)
    assert first.host_seconds >= 0.25 + first.device_seconds
    assert 0 < second.device_seconds < second.host_seconds


def test_new_parameters_are_looked_for_once_for_each_observation() -> None:
    model = Walked(lambda: None)
    observer = UpdateObserver(model)
    looked: list[int] = []
    model.walked = lambda: looked.append(observer.last_step)
    for step in (1, 2):
        observer.follow(model)
        observer.follow(model)
        observer.observe(step)
    assert looked == [0, 1]


def test_nothing_depends_on_the_default_device() -> None:
    """Tensors made on another default device, here one that holds no values, would be of no use."""
    model = nn.Linear(33, 5, bias=False)
    reference = UpdateMask.from_bools({"weight": torch.ones(5, 33, dtype=torch.bool)})
    with torch.device("meta"):
        observers = [
            UpdateObserver(model, base_mode=mode, references={"all": reference}, tolerances=[1e-3])
            for mode in ("device", "host", "low_byte")
        ]
        train(model)
        observations = [observer.observe(1) for observer in observers]
        masks = [observer.update_mask() for observer in observers]
    for observation, mask in zip(observations, masks, strict=True):
        assert observation.changed.tolist() == observation.references["all"].intersection.tolist() == [55]
        assert observation.changed_at[1e-3].tolist() == [55]
        assert mask.count() == 55


def test_a_parameter_whose_storage_was_exchanged_is_measured_where_it_is_now() -> None:
    model = nn.Linear(33, 5, bias=False)
    observer = UpdateObserver(model)
    assert observer.observe(1).changed.tolist() == [0]
    model.weight.data = model.weight.data + 1.0
    assert observer.observe(2).changed.tolist() == [165]


@pytest.mark.gpu
@needs_gpu
def test_nobody_waits_on_a_gpu() -> None:
    model = nn.Linear(1024, 1024, device=DEVICE)
    observer = UpdateObserver(model, tolerances=[1e-5])
    train(model)
    observer.observe(1)
    found = []
    with nobody_waits():
        for step in (2, 3, 4):
            train(model)
            # As the callback does: what was started at the step before is there by now.
            found += observer.collect()
            observer.start(step)
            observer.follow(model)
            observer.before_update()
    found += observer.collect()
    assert [o.changed.sum() for o in found] == [1024 * 1024 // 3 + 1 + 342] * 3


@pytest.mark.gpu
@needs_gpu
def test_an_update_waits_until_the_weights_have_been_read() -> None:
    size = full_or_small(4096, 256)
    model = nn.Linear(size, size, bias=False, device=DEVICE, dtype=torch.bfloat16)
    observer = UpdateObserver(model)
    for step in range(1, 20):
        observer.start(step)
        observer.before_update()
        train(model)
        assert observer.collect()[0].changed.sum() == (0 if step == 1 else -(-(size * size) // 3))


@pytest.mark.gpu
@needs_gpu
def test_the_base_counts_the_same_wherever_it_is_kept_on_a_gpu() -> None:
    size = full_or_small(8192, 256)
    model = nn.Linear(size, size, device=DEVICE, dtype=torch.bfloat16)
    observers = [UpdateObserver(model, base_mode=mode) for mode in ("device", "host", "low_byte")]
    for step in (1, 2):
        with torch.no_grad():
            # By less than the 128 representable steps from which on low bytes are found again as others.
            model.weight.view(-1)[::3] *= 1.01
        counts = [observer.observe(step) for observer in observers]
        assert len({tuple(o.changed.tolist()) for o in counts}) == 1
        assert len({tuple(o.step_changed.tolist()) for o in counts}) == 1
        assert 0.3 < counts[0].changed.sum() / size**2 < 0.34
