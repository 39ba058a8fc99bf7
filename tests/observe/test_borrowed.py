"""Live tensors are only read: their storages stay resizable, and memory that is given up is free."""

from __future__ import annotations

import copy
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from monitor.observe.borrowed import borrow
from monitor.observe.kernels import kernel_for, numpy_loops, reference
from monitor.observe.kernels.contract import Bind
from monitor.observe.kernels.cpu import CpuKernel
from monitor.observe.kernels.in_chunks import ReferenceInChunks
from monitor.observe.observer import UpdateObserver

KERNELS: dict[str, Bind | None] = {
    "fastest": None,
    "chosen": kernel_for,
    "numpy": partial(CpuKernel, loops=numpy_loops),
    "reference": lambda segments, rules: partial(reference.measure, segments, rules),
    "in chunks": partial(ReferenceInChunks, weights=64),
}


class Kinds(nn.Module):
    """A parameter of each kind that kernels treat in their own way."""

    def __init__(self) -> None:
        super().__init__()
        self.brain = nn.Parameter(torch.randn(40, 5).bfloat16())
        self.single = nn.Parameter(torch.randn(33))
        self.half16 = nn.Parameter(torch.randn(7, 3).half())
        self.strided = nn.Parameter(torch.randn(6, 8).t())
        self.strided16 = nn.Parameter(torch.randn(6, 8).bfloat16().t())
        self.frozen = nn.Parameter(torch.randn(9), requires_grad=False)


def storages(model: nn.Module) -> list[Any]:
    return [parameter.untyped_storage() for parameter in model.parameters()]


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("base", ["auto", "device", "low_byte", "module", "state dict"])
@pytest.mark.parametrize("observed", [0, 1, 2])
def test_storages_of_live_weights_can_be_resized(kernel: str, base: str, observed: int) -> None:
    model = Kinds()
    other = copy.deepcopy(model)
    source = {"module": other, "state dict": dict(other.state_dict())}.get(base)
    mode = base if base in {"device", "low_byte"} else "auto"
    observer = UpdateObserver(model, base=source, base_mode=mode, bind=KERNELS[kernel])
    for step in range(1, observed + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(1.0)
        observer.observe(step)
    assert all(storage.resizable() for storage in (*storages(model), *storages(other)))
    for storage in storages(model):
        storage.resize_(0)
        assert storage.nbytes() == 0


def test_the_adapters_and_what_is_below_them_can_be_resized() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(target_modules=["0"], r=2))
    observer = UpdateObserver(model)
    observer.observe(1)
    assert all(storage.resizable() for storage in storages(model))


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_memory_that_the_training_gives_up_is_free_at_once(kernel: str) -> None:
    model = nn.Linear(8, 8)
    observer = UpdateObserver(model, bind=KERNELS[kernel])
    observer.observe(1)
    memory = weakref.ref(model.weight.untyped_storage())
    given_up = model.weight.data
    alive = given_up.untyped_storage()._cdata
    model.weight.data = torch.empty(0)
    # Nobody but the name here holds it.
    assert torch._C._storage_Use_Count(alive) == storage_users_of_one_name()
    assert memory() is None or memory().nbytes()


def storage_users_of_one_name() -> int:
    alone = torch.zeros(8, 8)
    return int(torch._C._storage_Use_Count(alone.untyped_storage()._cdata))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3),
        torch.arange(6.0).view(2, 3).t(),
        torch.zeros(0, 4),
        torch.tensor(3.0),
        torch.arange(9)[2:7:2],
    ],
)
def test_what_is_borrowed_reads_the_same_memory(tensor: torch.Tensor) -> None:
    borrowed = borrow(tensor)
    assert torch.equal(borrowed, tensor)
    assert (borrowed.shape, borrowed.stride() if tensor.numel() else ()) == (
        tensor.shape,
        tensor.stride() if tensor.numel() else (),
    )
    tensor += 1
    assert torch.equal(borrowed, tensor)
    borrowed.numpy()
    assert tensor.untyped_storage().resizable()
