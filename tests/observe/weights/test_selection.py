from __future__ import annotations

import pytest
import torch
from torch import nn

from monitor.errors import ConfigurationError, UnsupportedModelError
from monitor.observe.observer import UpdateObserver
from monitor.observe.weights.selection import select_parameters


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight


def test_tied_parameters_count_once() -> None:
    assert list(select_parameters(Model()).trainable) == [
        "embed.weight",
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
    ]


def test_patterns_choose_parameters() -> None:
    selection = select_parameters(Model(), include=[r"layers\."], exclude=[r"\.bias$", r"layers\.1"])
    assert list(selection.trainable) == ["layers.0.weight"]


def test_frozen_parameters_take_no_memory_and_count_as_unchanged() -> None:
    model = Model()
    model.layers.requires_grad_(False)
    observer = UpdateObserver(model)
    everything = UpdateObserver(Model())
    assert observer.monitor_bytes < everything.monitor_bytes
    with torch.no_grad():
        model.embed.weight += 1.0
    observation = observer.observe(1)
    assert observation.weights == 24 + 2 * 20
    assert sum(group.frozen_weights for group in observation.groups) == 40
    assert observation.changed.sum() == 24


@pytest.mark.parametrize("setting", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{setting} has 'q_proj', which matches none of the 5 parameters"):
        select_parameters(Model(), **{setting: ["q_proj"]})


def test_a_pattern_that_is_no_regular_expression_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"'\*\.bias', which is no regular expression"):
        select_parameters(Model(), include=["*.bias"])


def test_a_single_string_in_place_of_a_list_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="expected a list of regular expressions"):
        select_parameters(Model(), include="layers")


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="nothing to measure"):
        select_parameters(Model().requires_grad_(False))


def test_parameters_that_are_not_floating_point_are_named_and_left_out() -> None:
    model = Model()
    model.packed = nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    with pytest.warns(UserWarning, match="not floating point, so not measured: packed"):
        selection = select_parameters(model)
    assert "packed" not in {**selection.trainable, **selection.frozen}


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"on the meta device, so without weights: embed\.weight"):
        select_parameters(Model().to("meta"))
