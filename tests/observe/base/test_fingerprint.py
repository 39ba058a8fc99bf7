"""What the base's fingerprint depends on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monitor.observe.base import fingerprint
from monitor.observe.base.fingerprint import span_sums, weight_sums
from monitor.observe.criterion import visible
from monitor.observe.observer import UpdateObserver


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False))


def test_the_fingerprint_is_that_of_released_versions() -> None:
    """Runs that these started are resumed, and their masks compared, by it."""
    weights = nn.Module()
    for name, shape in (("layers", (3, 5)), ("norm", (7,))):
        values = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape) / 7
        weights.register_parameter(name, nn.Parameter(values))
    assert UpdateObserver(weights).base_fingerprint == "78c0786f98308587adef80c820d99459"
    assert UpdateObserver(weights, visible_dtype="float32").base_fingerprint == "6ac0434ecb8a67a2c9c098514934a9fe"


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


def test_sums_of_spans_add_up_to_those_of_the_whole() -> None:
    weights = torch.randn(100_001).to(torch.bfloat16)
    first = weight_sums(weights[:40_000], torch.arange)
    second = weight_sums(weights[40_000:], lambda start, stop: torch.arange(40_000 + start, 40_000 + stop))
    assert torch.equal(first + second, weight_sums(weights, torch.arange))
    assert not torch.equal(first + weight_sums(weights[40_000:], torch.arange), weight_sums(weights, torch.arange))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("seen", [torch.bfloat16, torch.float32])
def test_spans_add_up_to_the_whole(
    stored: torch.dtype, seen: torch.dtype, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(fingerprint, "compiled_sums", lambda *arguments: None)
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(stored)
    weights[:5] = torch.tensor([-0.0, float("inf"), -float("inf"), 1e-40, -3e38])
    whole = weight_sums(visible(weights, seen), torch.arange)
    parts = [span_sums(weights[first : first + 96], seen, first) for first in range(0, 1000, 96)]
    assert torch.equal(torch.stack(parts).sum(dim=0), whole)
