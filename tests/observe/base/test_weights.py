from __future__ import annotations

import pytest
import torch
from torch import nn

from monitor.errors import BaseMismatchError
from monitor.observe.base.weights import holds_the_same
from monitor.observe.observer import UpdateObserver


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False))


def test_a_state_dict_given_as_base_is_copied() -> None:
    trained = model()
    observer = UpdateObserver(trained, base=trained.state_dict())
    with torch.no_grad():
        trained[0].bias += 1.0
    assert observer.observe(1).changed.sum() == 7


def test_a_module_given_as_base_is_used_in_place() -> None:
    trained, frozen = model(), model()
    with_copy, shared = UpdateObserver(trained), UpdateObserver(trained, base=frozen)
    assert shared.observe(1).changed.sum() == 0
    assert with_copy.base_fingerprint == shared.base_fingerprint
    assert shared.monitor_bytes < with_copy.monitor_bytes
    with torch.no_grad():
        trained[0].bias += 1.0
    assert shared.observe(2).changed.sum() == 7


def test_the_model_itself_is_no_base() -> None:
    trained = model()
    with pytest.raises(BaseMismatchError, match=r"shares the memory of 0\.weight with the model that trains"):
        UpdateObserver(trained, base=trained)


def test_a_base_that_does_not_match_names_the_parameters() -> None:
    state = model().state_dict()
    del state["0.bias"]
    state["1.weight"] = torch.zeros(3, 8)
    with pytest.raises(
        BaseMismatchError, match=r"missing: 0\.bias; other shape: 1\.weight \[3, 8\] instead of \[3, 7\]"
    ):
        UpdateObserver(model(), base=state)


def test_a_base_of_integers_is_refused() -> None:
    state = {name: torch.zeros_like(p, dtype=torch.int8) for name, p in model().named_parameters()}
    with pytest.raises(BaseMismatchError, match=r"not floating point: 0\.weight"):
        UpdateObserver(model(), base=state)


def test_a_reference_model_is_recognised_by_its_weights() -> None:
    assert holds_the_same(model(), model())
    assert not holds_the_same(model(1), model())
    assert not holds_the_same(nn.Linear(5, 7), model())


def test_a_reference_model_whose_parameters_are_placeholders_is_not_recognised() -> None:
    one, other = model(), model()
    # As DeepSpeed ZeRO-3 leaves them: the weights are elsewhere.
    for network in (one, other):
        network[0].weight.ds_tensor = torch.zeros(1)
    assert not holds_the_same(one, other)
