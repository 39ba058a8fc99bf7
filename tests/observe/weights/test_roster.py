"""What is measured, in which order, and what is not."""

from __future__ import annotations

import torch
from torch import nn

from monitor.observe.ranks import Alone
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.roster import Roster


def names(some: list[MeasuredWeights]) -> list[str]:
    return [weights.name for weights in some]


def a_model() -> nn.Sequential:
    """Four layers, of which the first and the third are frozen."""
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(4)))
    for layer in (model[0], model[2]):
        layer.requires_grad_(False)
    return model


def test_what_starts_to_train_comes_after_what_trained_before() -> None:
    model = a_model()
    roster = Roster.of_model(model, None, None, Alone())
    model.requires_grad_(True)
    assert roster.thawed() == (["0.weight", "2.weight"], [])
    later = roster.with_late(["2.weight"])
    assert names(later.measured) == list(later.shapes) == ["1.weight", "3.weight", "2.weight"]
    assert (names(later.selected), names(later.late)) == (["1.weight", "3.weight"], ["2.weight"])
    assert names(later.frozen) == ["0.weight"]
    assert [group.frozen_weights for group in later.table.groups] == [0, 0, 4, 0]


def test_a_roster_stays_what_it_is_when_another_is_made_of_it() -> None:
    roster = Roster.of_model(a_model(), None, None, Alone())
    roster.with_late(["0.weight"])
    assert names(roster.measured) == ["1.weight", "3.weight"]
    assert names(roster.frozen) == ["0.weight", "2.weight"]


def test_what_is_measured_already_does_not_thaw() -> None:
    model = a_model()
    roster = Roster.of_model(model, None, None, Alone()).with_late(["0.weight"])
    model.requires_grad_(True)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert roster.thawed() == (["2.weight"], [])
