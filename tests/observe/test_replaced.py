"""Whatever happens to a model after its observer was made: the counts are an independent program's, or marked."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from monitor.errors import UnsupportedModelError
from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver

Base = dict[str, torch.Tensor]


class Lin(nn.Module):
    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, size)
        self.lin = nn.Linear(size, size)
        self.head = nn.Linear(size, 10, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.lin(self.embed(tokens))))


@pytest.fixture
def model() -> Lin:
    torch.manual_seed(0)
    return Lin()


def bits(tensor: torch.Tensor) -> npt.NDArray[np.uint16]:
    """The bfloat16 patterns of weights, rounded to nearest even by numpy, −0 as +0."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    number = whole.detach().float().numpy().view(np.uint32).astype(np.uint64).reshape(-1)
    rounded = (number + 0x7FFF + ((number >> 16) & 1)) >> 16
    return np.where(rounded == 0x8000, 0, rounded).astype(np.uint16)


def start_of(model: nn.Module) -> Base:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def differing(base: Base, now: dict[str, torch.Tensor]) -> int:
    return sum(int((bits(base[name]) != bits(tensor)).sum()) for name, tensor in now.items())


def nudge(model: nn.Module, seed: int = 1) -> None:
    """Move half of the weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            local.add_((torch.rand(local.shape, generator=generator) < 0.5) * 0.25)


def unmeasured(observation: Observation) -> int:
    return 0 if observation.unmeasured is None else int(observation.unmeasured.sum())


def assign(model: Lin) -> None:
    model.lin.weight = nn.Parameter(model.lin.weight.detach().clone())


def exchange_module(model: Lin) -> None:
    model.lin = copy.deepcopy(model.lin)


def load_assigned(model: Lin) -> None:
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)


def exchange_data(model: Lin) -> None:
    model.lin.weight.data = model.lin.weight.detach().clone()


def exchange_all_data(model: Lin) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.detach().clone()


def transpose_memory(model: Lin) -> None:
    model.lin.weight.data = model.lin.weight.detach().t().contiguous().t()


def to_half(model: Lin) -> None:
    model.half()


def to_double_and_back(model: Lin) -> None:
    model.double().float()


def wrap_a_child(model: Lin) -> None:
    model.lin = torch.compile(model.lin, backend="eager")


def resize_storage_and_back(model: Lin) -> None:
    values = model.lin.weight.detach().clone()
    storage = model.lin.weight.untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)
    storage.resize_(size)
    with torch.no_grad():
        model.lin.weight.copy_(values)


def untie(model: Lin) -> None:
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())


TAKEN_UP: list[Callable[[Lin], None]] = [
    assign,
    exchange_module,
    load_assigned,
    exchange_data,
    exchange_all_data,
    transpose_memory,
    to_half,
    to_double_and_back,
    wrap_a_child,
    resize_storage_and_back,
    untie,
]


@pytest.mark.parametrize("happens", TAKEN_UP, ids=lambda each: each.__name__)
@pytest.mark.parametrize("when", ["before the first", "between two"])
def test_what_is_in_the_place_of_a_parameter_is_measured(model: Lin, happens: Any, when: str) -> None:
    base = start_of(model)
    observer = UpdateObserver(model)
    if when == "between two":
        nudge(model)
        observer.observe(1)
    happens(model)
    nudge(model, seed=2)
    observation = observer.observe(2)
    now = {name.replace("_orig_mod.", ""): parameter for name, parameter in model.named_parameters()}
    assert observation.changed.sum() == differing(base, now) > 20
    assert unmeasured(observation) == 0
    mask = observer.update_mask()
    for name, parameter in now.items():
        assert mask.bools(name).reshape(-1).tolist() == (bits(base[name]) != bits(parameter)).tolist(), name


def test_a_tied_head_that_is_untied_is_measured_where_it_has_its_name(model: Lin) -> None:
    model.head.weight = model.embed.weight
    base = start_of(model)
    observer = UpdateObserver(model)
    model.head.weight = nn.Parameter(model.embed.weight.detach().clone())
    nudge(model)
    now = dict(model.named_parameters())
    with pytest.warns(UserWarning, match=r"neither measured nor counted: head\.weight"):
        observer.follow(model)
    assert observer.observe(1).changed.sum() == differing(base, {name: now[name] for name in base})


def test_parameters_that_are_tied_later_count_under_each_name(model: Lin) -> None:
    base = start_of(model)
    observer = UpdateObserver(model)
    model.head.weight = model.embed.weight
    nudge(model)
    now = dict(model.named_parameters(remove_duplicate=False))
    assert observer.observe(1).changed.sum() == differing(base, now) > 50


def test_newly_changed_and_reverted_go_on_across_a_replacement(model: Lin) -> None:
    observer = UpdateObserver(model)
    nudge(model)
    first = observer.observe(1)
    load_assigned(model)
    second = observer.observe(2)
    assert first.newly_changed.sum() == first.changed.sum() == second.changed.sum()
    assert second.newly_changed.sum() == second.reverted.sum() == second.step_changed.sum() == 0


def delete(model: Lin) -> None:
    del model.lin.weight


def resize(model: Lin) -> None:
    model.lin.weight = nn.Parameter(torch.zeros(8, 6))


def empty(model: Lin) -> None:
    model.lin.weight.data = torch.empty(0)


def empty_storage(model: Lin) -> None:
    model.lin.weight.untyped_storage().resize_(0)


def to_meta(model: Lin) -> None:
    model.lin.weight = nn.Parameter(model.lin.weight.detach().to("meta"))


def reshape_data(model: Lin) -> None:
    model.lin.weight.data = model.lin.weight.detach().reshape(-1).clone()


def drop_module(model: Lin) -> None:
    model.lin = nn.Identity()


LOST: list[tuple[Callable[[Lin], None], str, int]] = [
    (delete, "lin.weight: no longer in the model", 36),
    (resize, r"lin.weight: of shape \[8, 6\] instead of \[6, 6\]", 36),
    (empty, "lin.weight: emptied, as by offloading", 36),
    (empty_storage, "lin.weight: emptied, as by offloading", 36),
    (to_meta, "lin.weight: replaced by one without weights", 36),
    (reshape_data, r"lin.weight: of shape \[36\] instead of", 36),
    (drop_module, "lin.weight, lin.bias: no longer in the model", 42),
]


@pytest.mark.parametrize(("happens", "said", "lost"), LOST, ids=[each[0].__name__ for each in LOST])
@pytest.mark.parametrize("when", ["before the first", "between two"])
def test_what_cannot_be_measured_is_said_once_and_marked(
    model: Lin, happens: Any, said: str, lost: int, when: str
) -> None:
    base = start_of(model)
    observer = UpdateObserver(model)
    if when == "between two":
        nudge(model)
        observer.observe(1)
    happens(model)
    left = {name: p for name, p in model.named_parameters() if lost == 42 or name != "lin.weight"}
    for parameter in left.values():
        with torch.no_grad():
            parameter.add_(0.5)
    with pytest.warns(UserWarning, match=said) as warned:
        observation, again = [observer.observe(step) for step in (2, 3)]
    assert len(warned) == 1
    assert unmeasured(observation) == unmeasured(again) == lost
    assert observation.changed.sum() == again.changed.sum() == differing(base, left) > 50
    trained = sum(group.weights - group.frozen_weights for group in observation.groups)
    assert trained == sum(tensor.numel() for tensor in base.values()) - lost


@pytest.mark.parametrize("happens", [empty, empty_storage])
def test_weights_that_come_back_are_measured_again(model: Lin, happens: Any) -> None:
    base = start_of(model)
    observer = UpdateObserver(model)
    nudge(model)
    values = model.lin.weight.detach().clone()
    happens(model)
    with pytest.warns(UserWarning, match="emptied"):
        assert unmeasured(observer.observe(1)) == 36
    model.lin.weight.data = values
    observation = observer.observe(2)
    assert unmeasured(observation) == 0
    assert observation.changed.sum() == differing(base, dict(model.named_parameters()))


def test_an_observer_that_has_nothing_left_says_why(model: Lin) -> None:
    observer = UpdateObserver(model)
    for parameter in model.parameters():
        parameter.data = torch.empty(0)
    with (
        pytest.warns(UserWarning, match="emptied"),
        pytest.raises(UnsupportedModelError, match=r"nothing is left to measure: embed\.weight is emptied"),
    ):
        observer.observe(1)


def test_adapters_that_are_added_later_are_measured_against_the_same_base(model: Lin) -> None:
    from peft import LoraConfig, get_peft_model

    base = start_of(model)
    observer = UpdateObserver(model)
    nudge(model)
    adapted = get_peft_model(model, LoraConfig(target_modules=["lin", "head"], r=2))
    nudge(adapted, seed=3)
    observer.follow(model)
    observation = observer.observe(1)
    merged = dict(copy.deepcopy(adapted).merge_and_unload().named_parameters())
    assert observation.changed.sum() == differing(base, merged) > 100
    assert unmeasured(observation) == 0


@pytest.fixture
def alone() -> Iterator[None]:
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_model_that_is_sharded_later_is_measured_in_its_shards(model: Lin) -> None:
    from torch.distributed.fsdp import fully_shard

    base = start_of(model)
    observer = UpdateObserver(model)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    nudge(model)
    observation = observer.observe(1)
    assert observation.changed.sum() == differing(base, dict(model.named_parameters())) > 50
    assert unmeasured(observation) == 0


@pytest.mark.usefixtures("alone")
def test_parameters_that_fsdp2_leaves_unsharded_after_an_evaluation_are_no_replacement(model: Lin) -> None:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    base = {name: p.full_tensor().detach().clone() for name, p in model.named_parameters()}
    observer = UpdateObserver(model)
    nudge(model)
    expected = differing(base, dict(model.named_parameters()))
    with torch.no_grad():
        model(torch.arange(4))
    assert not all(isinstance(parameter, DTensor) for parameter in model.parameters())
    observation = observer.observe(1)
    assert (observation.changed.sum(), unmeasured(observation)) == (expected, 0)


def test_what_was_replaced_is_not_kept_in_memory(model: Lin) -> None:
    observer = UpdateObserver(model)
    old = weakref.ref(model.lin.weight)
    resize(model)
    with pytest.warns(UserWarning, match="instead of"):
        observer.observe(1)
    gc.collect()
    assert old() is None


def test_looking_costs_microseconds_for_each_parameter() -> None:
    many = nn.ModuleList(nn.Linear(2, 2) for _ in range(300))
    observer = UpdateObserver(many)
    observer.observe(1)
    rebound = observer._model.measurement._kernel
    observer.observe(2)
    # What stays where it was is neither looked up nor bound again.
    assert observer._model.measurement._kernel is rebound
    assert math.isclose(observer.observe(3).cumulative_sparsity, 1.0)
