"""A base that is used in place, and what is frozen, must stay as they are: writes are noticed, and only these."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monitor.errors import UnsupportedModelError
from monitor.observe.base import untouched as module
from monitor.observe.base.untouched import Untouched, bit_sum
from monitor.observe.observer import UpdateObserver
from tests.observe.test_replaced import Lin, bits, differing, nudge, start_of, unmeasured

Write = Callable[[torch.Tensor], Any]


def in_place(weights: torch.Tensor) -> None:
    with torch.no_grad():
        weights.add_(0.5)


def through_data(weights: torch.Tensor) -> None:
    weights.data += 0.5


def in_inference_mode(weights: torch.Tensor) -> None:
    with torch.inference_mode():
        weights.data.mul_(1.5)


def one_weight_through_data(weights: torch.Tensor) -> None:
    weights.data.view(-1)[-1] += 0.5


WRITES: list[Write] = [in_place, through_data, in_inference_mode, one_weight_through_data]


@pytest.fixture
def model() -> Lin:
    torch.manual_seed(0)
    return Lin()


@pytest.mark.parametrize("write", WRITES, ids=lambda each: each.__name__)
def test_a_reference_model_that_moves_is_no_base_any_more(model: Lin, write: Write) -> None:
    reference = copy.deepcopy(model)
    base = start_of(model)
    observer = UpdateObserver(model, base=reference)
    nudge(model)
    assert observer.observe(1).changed.sum() == differing(base, dict(model.named_parameters()))
    write(reference.lin.weight)
    with pytest.warns(UserWarning, match=r"lin\.weight: the base that is used where it is was written to") as warned:
        seen = [observer.observe(2), observer.observe(3)]
    assert len(warned) == 1
    left = {name: p for name, p in model.named_parameters() if name != "lin.weight"}
    assert [observation.changed.sum() for observation in seen] == [differing(base, left)] * 2
    assert [unmeasured(observation) for observation in seen] == [36, 36]


def test_a_reference_model_that_moves_as_a_whole_ends_the_observation_with_the_reason(model: Lin) -> None:
    reference = copy.deepcopy(model)
    observer = UpdateObserver(model, base=reference)
    nudge(model)
    for mine, theirs in zip(reference.parameters(), model.parameters(), strict=True):
        mine.data.lerp_(theirs.data, 0.5)
    with (
        pytest.warns(UserWarning, match="let base_mode='device' keep a copy"),
        pytest.raises(UnsupportedModelError, match=r"nothing is left to measure: .* its base was written to"),
    ):
        observer.observe(1)


def test_a_base_that_is_emptied_is_not_read_and_is_used_again_when_it_is_there(model: Lin) -> None:
    reference = copy.deepcopy(model)
    base = start_of(model)
    observer = UpdateObserver(model, base=reference)
    nudge(model)
    observer.observe(1)
    values, storage = reference.lin.weight.detach().clone(), reference.lin.weight.untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)
    with pytest.warns(UserWarning, match=r"lin\.weight: measured against a base that was emptied"):
        assert unmeasured(observer.observe(2)) == 36
    storage.resize_(size)
    reference.lin.weight.data.copy_(values)
    observation = observer.observe(3)
    assert unmeasured(observation) == 0
    assert observation.changed.sum() == differing(base, dict(model.named_parameters()))


def with_adapters(model: nn.Module, targets: list[str]) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(target_modules=targets, r=2, init_lora_weights=False))
    return adapted.float()


def merge_and_begin_again(adapted: nn.Module) -> None:
    """ReLoRA: what was learnt goes into the base, and the adapters begin anew."""
    for each in adapted.modules():
        if hasattr(each, "lora_A") and hasattr(each, "get_delta_weight"):
            each.base_layer.weight.data += each.get_delta_weight("default")
            each.reset_lora_parameters("default", init_lora_weights=True)


def test_a_merge_into_the_base_below_adapters_is_noticed(model: Lin) -> None:
    adapted = with_adapters(model, ["lin", "head"])
    observer = UpdateObserver(adapted)
    assert unmeasured(observer.observe(1)) == 0
    merge_and_begin_again(adapted)
    with (
        pytest.warns(UserWarning, match=r"head\.weight: the base that is used where it is was written to"),
        pytest.raises(UnsupportedModelError, match="nothing is left to measure"),
    ):
        observer.observe(2)


def test_a_merge_into_weights_whose_base_was_copied_is_counted(model: Lin) -> None:
    base = start_of(model)
    adapted = with_adapters(model, ["lin", "head"])
    observer = UpdateObserver(adapted, base_mode="device")
    merge_and_begin_again(adapted)
    observation = observer.observe(1)
    merged = dict(copy.deepcopy(adapted).merge_and_unload().named_parameters())
    measured = {name: merged[name] for name in observer.shapes}
    assert observation.changed.sum() == differing(base, measured) > 50
    assert unmeasured(observation) == 0


@pytest.mark.parametrize("write", WRITES, ids=lambda each: each.__name__)
def test_a_frozen_parameter_that_moves_is_said_once_and_marked(model: Lin, write: Write) -> None:
    model.lin.requires_grad_(False)
    base = start_of(model)
    observer = UpdateObserver(model)
    assert unmeasured(observer.observe(1)) == 0
    write(model.lin.weight)
    with torch.no_grad():
        model.head.weight.add_(0.5)
    with pytest.warns(UserWarning, match=r"lin\.weight: written to although they do not require gradients") as warned:
        seen = [observer.observe(2), observer.observe(3)]
    assert len(warned) == 1
    assert [unmeasured(observation) for observation in seen] == [36, 36]
    assert [o.changed.sum() for o in seen] == [differing(base, {"head.weight": model.head.weight})] * 2


def same_values(model: Lin) -> None:
    model.load_state_dict(copy.deepcopy(model.state_dict()))


def replaced_by_the_same(model: Lin) -> None:
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)


def memory_exchanged(model: Lin) -> None:
    model.lin.weight.data = model.lin.weight.detach().clone()


def offloaded(model: Lin) -> None:
    model.lin.weight.data = torch.empty(0)


@pytest.mark.parametrize("happens", [same_values, replaced_by_the_same, memory_exchanged, offloaded])
def test_frozen_weights_that_keep_their_values_are_fine(model: Lin, happens: Any) -> None:
    model.lin.requires_grad_(False)
    observer = UpdateObserver(model)
    happens(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [unmeasured(observer.observe(step)) for step in (1, 2)] == [0, 0]


def test_a_frozen_parameter_that_is_replaced_by_other_values_is_marked(model: Lin) -> None:
    model.lin.requires_grad_(False)
    observer = UpdateObserver(model)
    model.lin.weight = nn.Parameter(model.lin.weight.detach() + 1.0, requires_grad=False)
    with pytest.warns(UserWarning, match=r"lin\.weight: written to although"):
        assert unmeasured(observer.observe(1)) == 36


def test_what_is_not_looked_at_in_this_turn_is_found_in_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_SUMMED_AT_LEAST", 1)
    weights = [torch.zeros(100) for _ in range(64)]
    watched = Untouched({str(i): lambda each=each: each for i, each in enumerate(weights)})
    weights[-1].data += 1.0
    counts = [watched.count_moved() for _ in range(32)]
    assert [int(count) for count in counts if count is not None].count(1) == 1
    assert watched.moved() == ["63"]


def test_a_raised_version_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_SUMMED_AT_LEAST", 1)
    weights = [torch.zeros(100) for _ in range(64)]
    watched = Untouched({str(i): lambda each=each: each for i, each in enumerate(weights)})
    weights[-1] += 1.0
    assert int(watched.count_moved()) == 1


@pytest.mark.parametrize("when", ["checkpoint", "end"])
def test_everything_is_looked_at_at_checkpoints_and_at_the_end(
    model: Lin, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BYTES_SUMMED_AT_LEAST", 1)
    monkeypatch.setattr(module, "_ROUND", 1000)
    model.lin.requires_grad_(False)
    observer = UpdateObserver(model)
    model.lin.bias.data += 1.0
    with pytest.warns(UserWarning, match=r"lin\.bias: written to although"):
        observer.save_touched(tmp_path) if when == "checkpoint" else observer.save_update_mask(tmp_path / "mask")


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
def test_bytes_that_change_places_are_a_difference_wherever_they_are(dtype: torch.dtype) -> None:
    for size in range(1, 10):
        for place in range(size):
            weights = torch.zeros(size, dtype=dtype)
            weights[place] = 0x404C
            swapped = weights.clone()
            swapped[place] = 0x4C40
            assert bit_sum(weights) != bit_sum(swapped)


def test_sums_go_beyond_what_64_bits_hold() -> None:
    weights = torch.full((19,), 2**31 - 1, dtype=torch.int32)
    expected = sum((2**31 - 1) << 32 * (place % 2) for place in range(19))
    assert int(bit_sum(weights)) % 2**64 == expected % 2**64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (7, 5), (64,)])
def test_sums_differ_where_any_bit_does(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weights = torch.randn(shape).to(dtype)
    same, strided = weights.clone(), weights.t() if weights.dim() == 2 else weights
    assert bit_sum(weights) == bit_sum(same)
    assert bit_sum(strided.t() if weights.dim() == 2 else strided) == bit_sum(weights)
    if weights.numel():
        same.view(-1)[-1] = 17.0
        assert bit_sum(weights) != bit_sum(same)
    assert weights.untyped_storage().resizable()


def test_bits_are_counted_by_another_program() -> None:
    assert bits(torch.tensor([1.0, -0.0])).tolist() == [0x3F80, 0]
