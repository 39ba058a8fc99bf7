from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from monitor.errors import UnsupportedModelError
from monitor.observe.observer import UpdateObserver
from monitor.observe.weights.names import by_clean_name, clean_name


class Parts(nn.Module):
    """A model of these parts, some of which are modules and some parameters."""

    def __init__(self, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def linear() -> nn.Module:
    return nn.Linear(3, 3, bias=False)


def weight() -> nn.Parameter:
    return nn.Parameter(torch.zeros(3, 3))


def adapted(model: nn.Module) -> nn.Module:
    return get_peft_model(model, LoraConfig(r=2, target_modules=["proj"], modules_to_save=["head"]))  # type: ignore[arg-type]


ONE_NAME_FOR_TWO: dict[str, Callable[[], nn.Module]] = {
    "the model's own module beside a weight": lambda: Parts(module=linear(), weight=weight()),
    "deep inside": lambda: Parts(tower=Parts(module=Parts(proj=linear()), proj=linear())),
    "with everything in DDP": lambda: Parts(module=Parts(module=linear(), weight=weight())),
    "compiled, beside what it replaces": lambda: Parts(_orig_mod=linear(), weight=weight()),
    "checkpointed, beside another": lambda: Parts(_checkpoint_wrapped_module=linear(), weight=weight()),
    "FSDP1, beside another": lambda: Parts(_fsdp_wrapped_module=Parts(a=linear()), a=linear()),
    "below adapters": lambda: adapted(Parts(proj=linear(), head=linear(), module=Parts(tail=linear()), tail=linear())),
    "an adapted one": lambda: adapted(Parts(proj=linear(), head=linear(), module=Parts(proj=linear()))),
    "a saved one": lambda: adapted(Parts(proj=linear(), head=linear(), module=Parts(head=linear()))),
}


@pytest.mark.parametrize("case", ONE_NAME_FOR_TWO)
def test_two_parameters_with_one_name_are_refused_by_both_their_own(case: str) -> None:
    model = ONE_NAME_FOR_TWO[case]()
    with pytest.raises(UnsupportedModelError, match=r"different parameters with one name: '.*' and '.*'") as refused:
        UpdateObserver(model)
    assert "Call the model's own submodule otherwise" in str(refused.value)


def _seen_twice(net: nn.Module) -> nn.Module:
    return Parts(net=net, fast=torch.compile(net))


def _tied() -> nn.Module:
    one = linear()
    return Parts(module=one, weight=one.weight)


ONE_NAME_EACH: dict[str, Callable[[], nn.Module]] = {
    "the model's own module": lambda: Parts(module=linear(), head=linear()),
    "names that only PEFT's modules lose": lambda: Parts(
        base_layer=linear(), modules_to_save=linear(), weight=weight()
    ),
    "one of two compiled": lambda: Parts(first=torch.compile(linear()), second=linear()),
    "one of two checkpointed": lambda: Parts(first=checkpoint_wrapper(linear()), second=linear()),
    "a compiled view of a module": lambda: _seen_twice(linear()),
    "tied under one name": _tied,
    "below adapters": lambda: adapted(Parts(proj=linear(), head=linear(), module=linear())),
}


@pytest.mark.parametrize("case", ONE_NAME_EACH)
def test_every_other_parameter_is_counted(case: str) -> None:
    model = ONE_NAME_EACH[case]()
    own = {name: p for name, p in model.named_parameters() if "lora_" not in name and "original_module" not in name}
    observation = UpdateObserver(model).observe(1)
    assert observation.weights == sum(parameter.numel() for parameter in own.values())


def test_a_base_with_one_name_for_two_is_refused() -> None:
    base = {"module.weight": torch.zeros(3, 3), "weight": torch.ones(3, 3)}
    with pytest.raises(UnsupportedModelError, match=r"'module\.weight' and 'weight'"):
        UpdateObserver(linear(), base=base)


def test_a_parameter_that_is_added_under_a_name_that_is_taken_is_told_of() -> None:
    model = Parts(weight=weight())
    observer = UpdateObserver(model)
    model.module = linear()
    with pytest.warns(UserWarning, match=r"added to the model after monitoring started.*weight"):
        observer.follow(model)


def test_a_parameter_that_is_wrapped_later_is_not_new() -> None:
    model = Parts(proj=linear())
    observer = UpdateObserver(model)
    model.proj = checkpoint_wrapper(model.proj)
    observer.follow(model)


def test_a_module_that_is_called_module_inside_a_name_is_no_wrapper() -> None:
    assert clean_name("model.submodule.weight") == "model.submodule.weight"


def test_one_parameter_may_come_twice() -> None:
    one = weight()
    assert list(by_clean_name([("module.weight", one), ("weight", one)])) == ["weight"]
