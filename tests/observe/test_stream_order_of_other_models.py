"""The order of streams where weights are computed, where some are on the host, and where processes train together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import Together
from tests.observe.cuda_model import CudaModel

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the real one is there")


def moved_to_gpu(cuda: CudaModel, model: nn.Module, *, left: str = "nothing") -> nn.Module:
    """Put the parameters of a model on the GPU, but for those of one name."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and name != left:
                there = cuda.tensor(parameter, f"the weights {name!r}")
                module._parameters[name] = nn.Parameter(there, requires_grad=parameter.requires_grad)
    return model


def train(cuda: CudaModel, model: nn.Module, **settings: Any) -> list[int]:
    """Observe three steps beside each other, and return how many weights had changed."""
    with cuda.doing("making the observer"):
        observer = UpdateObserver(model, **settings)
    for step in (1, 2, 3):
        observer.before_update()
        with cuda.doing("the optimizer's step"), torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.view(-1)[:step] += 1.0
        with cuda.nobody_waits(), cuda.doing("start"):
            observer.follow(model)
            observer.start(step)
        torch.zeros(5, device="cuda:0")
    with cuda.doing("collect"):
        return [int(observation.changed.sum()) for observation in observer.collect()]


@pytest.mark.parametrize("base_mode", ["device", "host"])
@pytest.mark.parametrize("adapters", [{}, {"use_dora": True}, {"bias": "all"}])
def test_what_adapters_make_is_measured_before_they_move_on(adapters: Mapping[str, Any], base_mode: str) -> None:
    layers = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 20)).bfloat16()
    config = LoraConfig(r=4, target_modules=["0", "1"], init_lora_weights=False, **adapters)
    with CudaModel() as cuda:
        changed = train(cuda, moved_to_gpu(cuda, get_peft_model(layers, config)), base_mode=base_mode)
        assert not cuda.faults, "\n".join(cuda.faults)
    assert min(changed) > 1000


@pytest.mark.parametrize("base_mode", ["device", "host"])
def test_weights_that_are_on_the_host_are_measured_with_the_others(base_mode: str) -> None:
    with CudaModel() as cuda:
        model = moved_to_gpu(cuda, nn.Linear(40, 30), left="bias")
        assert train(cuda, model, base_mode=base_mode) == [2, 4, 6]
        assert not cuda.faults, "\n".join(cuda.faults)


@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_weights_of_every_dtype_are_measured_without_waiting(dtype: torch.dtype, triton: bool) -> None:
    with CudaModel(triton=triton) as cuda:
        model = moved_to_gpu(cuda, nn.Linear(40, 30).to(dtype))
        assert train(cuda, model, base_mode="host", criterion="atol=1e-5", tolerances=[1e-3]) == [2, 4, 6]
        assert not cuda.faults, "\n".join(cuda.faults)


class OneOfThem(Together):
    """A process whose group has nobody else, in place of NCCL's, which works in the order of the current stream."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world, self._device = 0, 1, device

    def sum(self, counts: torch.Tensor) -> torch.Tensor:
        return counts.to(self._device).mul_(1)


@pytest.mark.parametrize("base_mode", ["device", "host"])
def test_processes_that_train_together_do_not_wait_for_each_other(base_mode: str) -> None:
    with CudaModel() as cuda:
        model = moved_to_gpu(cuda, nn.Linear(40, 30))
        ranks = OneOfThem(torch.device("cuda", 0))
        assert train(cuda, model, base_mode=base_mode, ranks=ranks) == [2, 4, 6]
        assert not cuda.faults, "\n".join(cuda.faults)
