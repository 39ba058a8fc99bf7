"""What would move weights outside the mask in silence is refused in words, and leaves nothing hooked."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monitor import Subnetwork, UpdateMask, UpdateObserver
from monitor.errors import ConfigurationError, MaskMismatchError, SparsityMonitorError, UnsupportedModelError
from monitor.observe.masks.file import MaskMetadata


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 4, bias=False)


def mask_of(model: nn.Module, ones: bool = True) -> UpdateMask:
    return UpdateMask.from_bools({n: torch.full(p.shape, ones) for n, p in model.named_parameters()})


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def with_adapters() -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(nn.Sequential(linear()), peft.LoraConfig(r=2, target_modules=["0"]))


def partitioned() -> nn.Module:
    # What ZeRO-3 leaves at each parameter.
    model = linear()
    model.weight.ds_tensor = torch.zeros(0)
    return model


def quantised() -> nn.Module:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    quantize_(model, Int8WeightOnlyConfig())
    return model.requires_grad_(True)


def with_shared_memory() -> nn.Module:
    model = nn.Sequential(linear(), linear())
    model[1].weight = nn.Parameter(model[0].weight.data)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_shared_memory, r"0\.weight and 1\.weight are two parameters with the same memory"),
        (with_adapters, "the model has adapters"),
        (quantised, r"quantised weights that train: 0\.weight"),
        (partitioned, "ZeRO-3 partitions the model. Use ZeRO-1 or ZeRO-2"),
        (lambda: nn.Linear(2, 2, device="meta"), "on the meta device"),
        (lambda: nn.Embedding(4, 4, sparse=True), "sparse gradients"),
        (lambda: linear().requires_grad_(False), "no parameter of the model requires gradients"),
        (lambda: "Qwen", "model is 'Qwen'; expected the torch.nn.Module"),
    ],
)
def test_models_whose_weights_cannot_be_kept_are_refused(make: Callable[[], Any], message: str) -> None:
    model = make()
    with pytest.raises(SparsityMonitorError, match=message):
        Subnetwork(model, mask_of(linear()), sgd(linear()))


class Lomo(torch.optim.SGD):
    """As the optimizers of this name, which update within the backward pass."""


class ScheduleFree(torch.optim.SGD):
    def train(self) -> None: ...

    def eval(self) -> None: ...


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: [], r"optimizers is \[\]; expected those"),
        (lambda model: "adamw", "an optimizer is 'adamw'; expected a torch.optim.Optimizer"),
        (lambda model: Lomo(model.parameters(), lr=0.1), "Lomo updates the weights within the backward pass"),
        (lambda model: ScheduleFree(model.parameters(), lr=0.1), "ScheduleFree has other weights in evaluation"),
        (
            lambda model: torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(3))], lr=0.1),
            r"SGD steps 1 tensors that the model does not have, the first of shape \[3\]",
        ),
    ],
)
def test_optimizers_that_cannot_be_guarded_are_refused(make: Callable[[nn.Module], Any], message: str) -> None:
    model = linear()
    with pytest.raises(ConfigurationError, match=message):
        Subnetwork(model, mask_of(model), make(model))
    # Nothing is left of it.
    optimizer = sgd(model)
    Subnetwork(model, mask_of(model), optimizer).close()
    optimizer.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cpu_offload": True}, "DeepSpeed offloads the optimizer"),
        ({"bit16_groups": [[nn.Parameter(torch.ones(1))]]}, "does not tell where it keeps its copies"),
    ],
)
def test_optimizers_of_deepspeed_that_are_not_known_are_refused(settings: dict[str, Any], message: str) -> None:
    model = linear()
    kind = type("DeepSpeedZeroOptimizer", (), {"__module__": "deepspeed.runtime.zero.stage_1_and_2"} | settings)
    around = kind()
    around.optimizer = sgd(model)
    with pytest.raises(UnsupportedModelError, match=message):
        Subnetwork(model, mask_of(model), around)


@pytest.mark.parametrize(
    ("bools", "message"),
    [
        ({"weight": torch.zeros(4, 4, dtype=torch.bool)}, "no ones among the 16 weights that train, and 0 elsewhere"),
        ({"weight": torch.ones(2, 8, dtype=torch.bool)}, r"weight \[2, 8\] instead of \[4, 4\]"),
        ({"other": torch.ones(4, 4, dtype=torch.bool)}, "missing: weight"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(bools: dict[str, torch.Tensor], message: str) -> None:
    model = linear()
    with pytest.raises(MaskMismatchError, match=message):
        Subnetwork(model, UpdateMask.from_bools(bools), sgd(model))


def test_a_mask_against_another_base_is_named_in_a_warning(tmp_path: Path) -> None:
    model = linear()
    base = MaskMetadata("bits", "bfloat16", UpdateObserver(model).base_fingerprint)
    UpdateMask.from_bools({"weight": torch.eye(4, dtype=torch.bool)}, base).save(tmp_path / "mask.safetensors")
    optimizer = sgd(model)
    Subnetwork(model, tmp_path / "mask.safetensors", optimizer).close()
    with torch.no_grad():
        model.weight[0] += 1.0
    with pytest.warns(UserWarning, match="the mask was taken against another base"):
        Subnetwork(model, tmp_path / "mask.safetensors", optimizer).close()
    # As it should be where training goes on.
    Subnetwork(model, tmp_path / "mask.safetensors", optimizer, resumed=True).close()


def test_a_model_has_one_mask_at_a_time() -> None:
    model = linear()
    optimizer = sgd(model)
    with Subnetwork(model, mask_of(model), optimizer), pytest.raises(ConfigurationError, match="Intersect masks with"):
        Subnetwork(model, mask_of(model), optimizer)
    Subnetwork(model, mask_of(model), optimizer).close()


def test_an_optimizer_that_is_given_twice_is_guarded_once() -> None:
    model = linear()
    optimizer = sgd(model)
    with Subnetwork(model, mask_of(model), [optimizer, optimizer]) as subnetwork:
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    assert subnetwork.steps == 1


def test_an_optimizer_that_was_not_given_may_not_step() -> None:
    model = nn.Sequential(linear(), linear())
    first, forgotten = sgd(model[0]), sgd(model[1])
    elsewhere = linear()
    with Subnetwork(model, mask_of(model), first):
        model(torch.ones(1, 4)).sum().backward()
        with pytest.raises(ConfigurationError, match="SGD steps weights of a model that trains a subnetwork"):
            forgotten.step()
        sgd(elsewhere).step()
    forgotten.step()


def test_an_optimizer_that_was_not_given_may_not_step_after_a_step_that_raised() -> None:
    model = linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with Subnetwork(model, mask_of(model), optimizer):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.param_groups[0]["lr"] = "not a number"
        with pytest.raises(TypeError):
            optimizer.step()
        with pytest.raises(ConfigurationError, match="SGD steps weights of a model that trains a subnetwork"):
            sgd(model).step()


def test_a_subnetwork_that_nobody_holds_goes_on_as_long_as_its_optimizer() -> None:
    model = linear()
    optimizer, before = sgd(model), model.weight.detach().clone()
    mask = UpdateMask.from_bools({"weight": torch.eye(4, dtype=torch.bool)})
    Subnetwork(model, mask, optimizer)
    gc.collect()
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight != before, mask.bools("weight"))


def test_a_closure_is_refused_before_anything_moves() -> None:
    model = linear()
    optimizer, before = sgd(model), model.weight.detach().clone()
    with Subnetwork(model, mask_of(model), optimizer), pytest.raises(ConfigurationError, match="given a closure"):
        optimizer.step(lambda: 0.0)
    assert torch.equal(model.weight, before)


def test_state_of_another_mask_is_refused_and_not_mixed_up() -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with Subnetwork(model, UpdateMask.from_bools({"weight": torch.eye(4, dtype=torch.bool)}), optimizer):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    with Subnetwork(model, mask_of(model), optimizer):
        model(torch.ones(1, 4)).sum().backward()
        with pytest.raises(MaskMismatchError, match="it is of a training with another mask"):
            optimizer.step()
