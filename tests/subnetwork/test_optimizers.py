"""A step of each optimizer: outside the mask the base, inside the masked step of all weights, both to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from monitor import Subnetwork, UpdateMask
from monitor.errors import MaskMismatchError
from tests.subnetwork.optimizers import (
    OPTIMIZERS,
    PACKED,
    Make,
    bits,
    moved_outside,
    share_moved_inside,
    step_by_hand,
    weights_of,
)

DTYPES = [torch.float32, torch.bfloat16]


class Odd(nn.Module):
    """Sizes that fill no vector of a processor, a scalar, weights that are −0 and subnormal, an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(37, 53)
        self.down = nn.Linear(53, 19, bias=False)
        self.norm = nn.LayerNorm(19)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.unused = nn.Parameter(torch.ones(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.down(torch.relu(self.up(x)))) * self.scale


def odd_model(dtype: torch.dtype = torch.float32) -> Odd:
    torch.manual_seed(0)
    model = Odd().to(dtype)
    with torch.no_grad():
        # What an update of zero does not leave alone, and what a product with zero does not make zero.
        model.down.weight[:, 0] = -0.0
        model.down.weight[0, 1] = 2.0**-133
    return model


def odd_mask(density: float = 0.3) -> UpdateMask:
    generator = torch.Generator().manual_seed(1)
    bools = {name: torch.rand(p.shape, generator=generator) < density for name, p in Odd().named_parameters()}
    bools |= {"scale": torch.tensor(True), "norm.bias": torch.zeros(19, dtype=torch.bool)}
    bools |= {"norm.weight": torch.ones(19, dtype=torch.bool)}
    return UpdateMask.from_bools(bools)


def run(model: nn.Module, step: Callable[[], None], optimizers: list[Any], steps: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        x = torch.randn(8, 37, generator=generator).to(next(model.parameters()).dtype)
        model(x).float().square().mean().backward()
        step()
        for optimizer in optimizers:
            optimizer.zero_grad()
    return weights_of(model)


def check_a_subnetwork(make: Make, dtype: torch.dtype) -> Subnetwork:
    """Train with a mask, and check the weights."""
    mask = odd_mask()
    inside = {name: mask.bools(name) for name in mask.shapes}
    model, other = odd_model(dtype), odd_model(dtype)
    before = weights_of(model)
    optimizers, others = make(model), make(other)
    with Subnetwork(model, mask, optimizers) as subnetwork:
        after = run(model, lambda: [each.step() for each in optimizers] and None, optimizers)
    assert subnetwork.steps == 4 * len(optimizers)
    assert not moved_outside(inside, before, after)
    assert not subnetwork.moved()
    assert share_moved_inside({n: i for n, i in inside.items() if n != "unused"}, before, after) > (
        0.5 if dtype == torch.float32 else 0.01
    )
    expected = run(other, lambda: step_by_hand(other, others, inside, before), others)
    for name, weights in after.items():
        assert torch.equal(bits(weights), bits(expected[name])), name
    return subnetwork


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_moves_the_weights_inside_alone(kind: str, dtype: torch.dtype) -> None:
    subnetwork = check_a_subnetwork(OPTIMIZERS[kind], dtype)
    kept, full = subnetwork.state_bytes
    if kind in PACKED and kind != "adamw-fused" and dtype == torch.float32:
        assert kept < 0.4 * full
    elif kind not in ("muon", "adafactor"):
        assert kept == full
        assert "keeps state of all, because" in subnetwork.described()


@pytest.mark.parametrize("kind", ["Lion", "Lion8bit", "AdamW8bit"])
def test_quantised_states_leave_the_weights_outside_alone(kind: str) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # From 4096 weights on, the state is quantised, in blocks that lie inside the mask and outside.
            self.linear = nn.Linear(64, 96, bias=False)

    torch.manual_seed(0)
    model = Wide()
    mask = UpdateMask.from_bools({"linear.weight": torch.rand(96, 64) < 0.3})
    inside, before = {"linear.weight": mask.bools("linear.weight")}, weights_of(model)
    optimizer = getattr(bitsandbytes.optim, kind)(model.parameters(), lr=0.01, weight_decay=0.1)
    with Subnetwork(model, mask, optimizer):
        for _ in range(3):
            model.linear(torch.randn(4, 64)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not moved_outside(inside, before, weights_of(model))
    assert share_moved_inside(inside, before, weights_of(model)) > 0.9


def test_momentum_of_a_full_training_goes_on_inside_and_moves_nothing_outside() -> None:
    """An optimizer that has stepped all weights: what its state holds of those outside must not move them."""
    mask = odd_mask()
    inside = {name: mask.bools(name) for name in mask.shapes}
    results = []
    for by_hand in (False, True):
        model = odd_model()
        optimizers = OPTIMIZERS["sgd"](model)
        run(model, optimizers[0].step, optimizers, steps=2)
        before = weights_of(model)
        if by_hand:
            states = copy.deepcopy(optimizers[0].state_dict())
            for index, name in enumerate(inside):
                if index in states["state"]:
                    states["state"][index]["momentum_buffer"] *= inside[name]
            optimizers[0].load_state_dict(states)
            results.append(run(model, lambda: step_by_hand(model, optimizers, inside, before), optimizers))  # noqa: B023
            continue
        with Subnetwork(model, mask, optimizers):
            results.append(run(model, optimizers[0].step, optimizers))
        assert not moved_outside(inside, before, results[0])
    for name, weights in results[0].items():
        assert torch.equal(weights, results[1][name]), name


def test_what_is_not_finite_outside_stays_outside() -> None:
    model = nn.Linear(4, 4, bias=False)
    mask = UpdateMask.from_bools({"weight": torch.eye(4, dtype=torch.bool)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    with torch.no_grad():
        model.weight[0, 1] = torch.nan
    before = weights_of(model)
    with Subnetwork(model, mask, optimizer):
        gradient = torch.full((4, 4), torch.inf)
        gradient.fill_diagonal_(1.0)
        model.weight.backward(gradient)
        assert torch.equal(model.weight.grad, torch.eye(4))
        optimizer.step()
    assert not moved_outside({"weight": mask.bools("weight")}, before, weights_of(model))
    assert torch.isfinite(model.weight.diagonal()).all()


def test_the_gradient_is_zero_outside_as_soon_as_it_is_there() -> None:
    mask = odd_mask()
    model = odd_model()
    optimizers = OPTIMIZERS["adamw"](model)
    with Subnetwork(model, mask, optimizers):
        for _ in range(2):
            model(torch.randn(8, 37)).square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    inside = [p.grad[mask.bools(name)] for name, p in model.named_parameters() if p.grad is not None]
    assert norm == pytest.approx(torch.cat(inside).norm().item())
    assert all(not p.grad[~mask.bools(name)].any() for name, p in model.named_parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_gradients_that_no_backward_pass_made_are_masked_before_the_step(kind: str) -> None:
    mask = odd_mask()
    inside = {name: mask.bools(name) for name in mask.shapes}
    model, other = odd_model(), odd_model()
    before = weights_of(model)
    optimizers, others = OPTIMIZERS[kind](model), OPTIMIZERS[kind](other)
    with Subnetwork(model, mask, optimizers):
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.grad, theirs.grad = torch.ones_like(mine), torch.ones_like(theirs)
        optimizers[0].step()
    step_by_hand(other, others, inside, before)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["adamw-fused", "adafactor"])
def test_a_step_that_a_scaler_skips_moves_nothing(kind: str) -> None:
    model = odd_model()
    optimizers = OPTIMIZERS[kind](model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    mask = odd_mask()
    before = weights_of(model)

    def step(scale: float) -> None:
        scaler.scale(model(torch.full((8, 37), scale)).square().mean()).backward()
        scaler.step(optimizers[0])
        scaler.update()
        optimizers[0].zero_grad()

    with Subnetwork(model, mask, optimizers) as subnetwork:
        step(float("inf"))
        assert all(torch.equal(weights, before[name]) for name, weights in weights_of(model).items())
        step(1.0)
    inside = {name: mask.bools(name) for name in mask.shapes}
    assert not moved_outside(inside, before, weights_of(model))
    assert share_moved_inside(inside, before, weights_of(model)) > 0.5
    assert subnetwork.steps in (1, 2)


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_a_compiled_step_is_guarded(kind: str) -> None:
    model = odd_model()
    optimizers = OPTIMIZERS[kind](model)
    mask = odd_mask()
    before = weights_of(model)
    with Subnetwork(model, mask, optimizers) as subnetwork:
        after = run(model, torch.compile(optimizers[0].step, backend="eager"), optimizers, steps=2)
    assert subnetwork.steps == 2
    assert not moved_outside({name: mask.bools(name) for name in mask.shapes}, before, after)


def test_a_step_that_raises_leaves_the_model_whole_and_the_next_one_works() -> None:
    model = odd_model()
    (optimizer,) = OPTIMIZERS["adamw"](model)
    mask = odd_mask()
    before = weights_of(model)
    with Subnetwork(model, mask, optimizer):
        run(model, optimizer.step, [optimizer], steps=1)
        optimizer.param_groups[0]["lr"] = "not a number"
        model(torch.randn(8, 37)).square().mean().backward()
        with pytest.raises(TypeError):
            optimizer.step()
        assert {name: p.shape for name, p in model.named_parameters()} == {n: w.shape for n, w in before.items()}
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.step()
        optimizer.zero_grad()
        assert [p for group in optimizer.param_groups for p in group["params"]] == list(model.parameters())
    assert not moved_outside({name: mask.bools(name) for name in mask.shapes}, before, weights_of(model))


def test_a_parameter_that_starts_to_train_late_is_masked_from_then_on() -> None:
    mask = odd_mask()
    model = odd_model()
    model.up.requires_grad_(False)
    (optimizer,) = OPTIMIZERS["sgd"](model)
    before = weights_of(model)
    with Subnetwork(model, mask, optimizer):
        run(model, optimizer.step, [optimizer], steps=1)
        model.up.requires_grad_(True)
        after = run(model, optimizer.step, [optimizer], steps=2)
        model(torch.randn(8, 37)).square().mean().backward()
    inside = {name: mask.bools(name) for name in mask.shapes}
    assert not model.up.weight.grad[~inside["up.weight"]].any()
    assert not moved_outside(inside, before, after)
    assert share_moved_inside({"up.weight": inside["up.weight"]}, before, after) > 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", PACKED)
def test_packed_steps_on_a_gpu_are_those_of_all_weights_to_the_bit(kind: str, dtype: torch.dtype) -> None:
    mask = odd_mask()
    inside = {name: mask.bools(name).cuda() for name in mask.shapes}
    model, other = odd_model(dtype).cuda(), odd_model(dtype).cuda()
    before = weights_of(model)
    optimizers, others = PACKED[kind](model), PACKED[kind](other)
    gradients = torch.Generator("cuda").manual_seed(3)
    with Subnetwork(model, mask, optimizers) as subnetwork:
        for _ in range(4):
            for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
                mine.grad = torch.randn(mine.shape, generator=gradients, device="cuda").to(dtype)
                theirs.grad = mine.grad.clone()
            optimizers[0].step()
            step_by_hand(other, others, inside, before)
    assert not moved_outside(inside, before, weights_of(model))
    assert subnetwork.state_bytes[0] < subnetwork.state_bytes[1]
    for name, weights in weights_of(model).items():
        assert torch.equal(bits(weights), bits(weights_of(other)[name])), name


class FailsHalfWay(torch.optim.SGD):
    """Moves four parameters, and runs out of memory at the next."""

    fails = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for number, parameter in enumerate(self.param_groups[0]["params"]):
            if number == 4 and self.fails:
                raise torch.OutOfMemoryError
            parameter.mul_(0.9)


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
def test_what_a_step_that_raised_half_way_has_moved_outside_is_put_back(ends: bool) -> None:
    mask, model = odd_mask(), odd_model()
    inside = {name: mask.bools(name) for name in mask.shapes}
    before = weights_of(model)
    optimizer = FailsHalfWay(model.parameters(), lr=0.1)
    with Subnetwork(model, mask, optimizer):
        model(torch.randn(8, 37)).square().mean().backward()
        with pytest.raises(torch.OutOfMemoryError):
            optimizer.step()
        if not ends:
            optimizer.fails = False
            optimizer.step()
    assert not moved_outside(inside, before, weights_of(model))


def test_an_optimizer_is_whole_again_when_the_training_ends_by_a_step_that_raised() -> None:
    model = odd_model()
    (optimizer,) = OPTIMIZERS["adamw"](model)
    with Subnetwork(model, odd_mask(), optimizer):
        optimizer.param_groups[0]["lr"] = "not a number"
        model(torch.randn(8, 37)).square().mean().backward()
        with pytest.raises(TypeError):
            optimizer.step()
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [id(p) for p in model.parameters()]


def test_state_of_the_weights_inside_goes_on_in_steps_that_keep_state_of_all() -> None:
    # As of a training on a GPU that goes on on a CPU, where a fused step reads beyond a state that is too short.
    mask = odd_mask()
    model, other = odd_model(), odd_model()
    (packed,), (fused,) = OPTIMIZERS["adamw"](model), OPTIMIZERS["adamw-fused"](other)
    with Subnetwork(model, mask, packed):
        run(model, packed.step, [packed], steps=2)
    other.load_state_dict(model.state_dict())
    state = copy.deepcopy(packed.state_dict())
    state["param_groups"] = fused.state_dict()["param_groups"]
    fused.load_state_dict(state)
    before = weights_of(other)
    with Subnetwork(model, mask, packed), Subnetwork(other, mask, fused, resumed=True) as subnetwork:
        expected = run(model, packed.step, [packed], steps=2)
        found = run(other, fused.step, [fused], steps=2)
    assert "keeps state of all, because" in subnetwork.described()
    inside = {name: mask.bools(name) for name in mask.shapes}
    assert not moved_outside(inside, before, found)
    for name, weights in found.items():
        torch.testing.assert_close(weights, expected[name], msg=name)
    short = copy.deepcopy(state)
    short["state"][0]["exp_avg"] = torch.zeros(3)
    fused.load_state_dict(short)
    with Subnetwork(other, mask, fused), pytest.raises(MaskMismatchError, match="of a training with another mask"):
        run(other, fused.step, [fused], steps=1)
