from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monitor.errors import BaseMismatchError
from monitor.observe.base.weights import holds_the_same, weight_sums
from monitor.observe.observer import UpdateObserver


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False))


def test_equal_bases_have_equal_fingerprints_whatever_they_are_stored_in() -> None:
    half = model().to(torch.bfloat16)
    single = copy.deepcopy(half).to(torch.float32)
    assert UpdateObserver(half).base_fingerprint == UpdateObserver(single).base_fingerprint


def test_a_single_changed_weight_changes_the_fingerprint() -> None:
    one, other = model(), model()
    with torch.no_grad():
        other[1].weight[2, 6] += 0.01
    assert UpdateObserver(one).base_fingerprint != UpdateObserver(other).base_fingerprint


def test_two_exchanged_weights_change_the_fingerprint() -> None:
    one, other = model(), model()
    with torch.no_grad():
        first, second = other[1].weight[0, 0].clone(), other[1].weight[0, 1].clone()
        other[1].weight[0, 0], other[1].weight[0, 1] = second, first
    assert UpdateObserver(one).base_fingerprint != UpdateObserver(other).base_fingerprint


def test_sums_of_parts_add_up_to_those_of_the_whole() -> None:
    weights = torch.randn(100_001).to(torch.bfloat16)
    first = weight_sums(weights[:40_000], torch.arange)
    second = weight_sums(weights[40_000:], lambda start, stop: torch.arange(40_000 + start, 40_000 + stop))
    assert torch.equal(first + second, weight_sums(weights, torch.arange))
    assert not torch.equal(first + weight_sums(weights[40_000:], torch.arange), weight_sums(weights, torch.arange))


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
    assert shared._state.base["0.weight"].data_ptr() == frozen[0].weight.data_ptr()
    assert with_copy.base_fingerprint == shared.base_fingerprint


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


def test_float32_masters_of_a_bfloat16_checkpoint_take_a_bfloat16_base() -> None:
    master = model().to(torch.bfloat16).to(torch.float32)
    weights = sum(p.numel() for p in master.parameters())
    words = sum(-(-p.numel() // 32) for p in master.parameters())
    observer = UpdateObserver(master, step_masks=False)
    assert observer.monitor_bytes == 2 * weights + 4 * words
    with torch.no_grad():
        # Too little to be seen in bfloat16, but not the weight that it was.
        master[0].weight *= 1 + 1e-6
    observation = observer.observe(1)
    assert (observation.changed.sum(), observation.hidden.sum()) == (0, 35)


def test_a_reference_model_whose_parameters_are_placeholders_is_not_recognised() -> None:
    one, other = model(), model()
    # As DeepSpeed ZeRO-3 leaves them: the weights are elsewhere.
    for network in (one, other):
        network[0].weight.ds_tensor = torch.zeros(1)
    assert not holds_the_same(one, other)
