"""What happens to a model after its observer was made is found out on all processes alike, and hangs none."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from monitor.errors import SparsityMonitorError, UnsupportedModelError
from monitor.observe.observer import UpdateObserver
from tests.observe.test_replaced import differing, start_of, unmeasured
from tests.parallel.models import make_model, spread
from tests.parallel.processes import run_together

pytestmark = pytest.mark.xdist_group("parallel")

# Seen by one observer: changed and unmeasured weights per step, what was warned of, and how it ended.
Seen = tuple[list[tuple[int, int]], list[str], str]


def move(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)


def assign(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().clone()))


def assign_on_one(model: nn.Module) -> None:
    if dist.get_rank() == 1:
        assign(model)


def empty_one(model: nn.Module) -> None:
    next(iter(model.parameters())).data = torch.empty(0)


def empty_one_on_one(model: nn.Module) -> None:
    if dist.get_rank() == 1:
        empty_one(model)


def shard(model: nn.Module) -> None:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def evaluate(model: nn.Module) -> None:
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.long))


HAPPENS = {each.__name__: each for each in (assign, assign_on_one, empty_one, empty_one_on_one, shard, evaluate)}


def observed(how: str, happens: str) -> Seen:
    model = spread(make_model(), how)
    observer = UpdateObserver(model)
    seen, end = [], ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for step in (1, 2, 3):
                move(model)
                if step == 2:
                    HAPPENS[happens](model)
                observation = observer.observe(step)
                seen.append((int(observation.changed.sum()), unmeasured(observation)))
        except SparsityMonitorError as error:
            end = f"{type(error).__name__}: {error}"
    said = [str(each.message) for each in caught if each.category is UserWarning]
    return seen, [each for each in said if "not measured" in each], end


def expected() -> tuple[int, int, int]:
    """Changed weights after any step, weights, and weights of the first parameter."""
    model = make_model()
    base = start_of(model)
    move(model)
    parameters = list(model.parameters())
    return differing(base, dict(model.named_parameters())), sum(p.numel() for p in parameters), parameters[0].numel()


@pytest.mark.parametrize(("how", "happens"), [("ddp", "assign"), ("ddp", "assign_on_one"), ("fsdp2", "evaluate")])
def test_replaced_parameters_are_measured_by_all_processes(how: str, happens: str) -> None:
    changed, _, _ = expected()
    for seen, said, end in run_together(observed, 2, how, happens):
        assert ([each for each, _ in seen], [lost for _, lost in seen]) == ([changed] * 3, [0] * 3)
        assert (said, end) == ([], "")


@pytest.mark.parametrize("happens", ["empty_one", "empty_one_on_one"])
def test_what_one_process_has_lost_is_lost_for_all(happens: str) -> None:
    _, _, first = expected()
    results = run_together(observed, 2, "ddp", happens)
    for seen, said, end in results:
        assert [lost for _, lost in seen] == [0, first, first]
        assert (len(said), end) == (1, "")
    assert results[0][0] == results[1][0]


def test_a_model_that_is_sharded_later_ends_the_observation_on_all_with_the_reason() -> None:
    for seen, said, end in run_together(observed, 2, "ddp", "shard"):
        assert len(seen) == 1
        assert "spread over processes or devices in another way since measuring started" in said[0]
        assert end.startswith(f"{UnsupportedModelError.__name__}: nothing is left to measure")


def moved_base(how: str) -> Any:
    reference, model = spread(make_model(), how), spread(make_model(), how)
    observer = UpdateObserver(model, base=reference)
    name, parameter = next(iter(reference.named_parameters()))
    seen = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in (1, 2):
            move(model)
            if step == 2 and dist.get_rank() == 1:
                (parameter.to_local() if hasattr(parameter, "to_local") else parameter).data += 1.0
            seen.append(unmeasured(observer.observe(step)))
    return seen, [str(each.message) for each in caught if name.split(".")[-1] in str(each.message)]


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_a_base_that_moved_on_one_process_is_no_base_on_any(how: str) -> None:
    _, _, first = expected()
    for seen, said in run_together(moved_base, 2, how):
        assert seen == [0, first]
        assert len([each for each in said if "the base that is used where it is" in each]) == 1
