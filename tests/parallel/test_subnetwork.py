"""Subnetworks in parallel trainings: outside the mask the base, to the bit; inside, what one process makes of it."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import AutoModelForCausalLM, TrainerCallback

from monitor import Subnetwork, SubnetworkCallback, UpdateMask
from monitor.errors import UnsupportedModelError
from tests.parallel.models import make_model, spread, train_step
from tests.parallel.processes import run_together
from tests.parallel.trainings import run_as_torchrun, train
from tests.subnetwork.optimizers import DECAY, OPTIMIZERS, Make, moved_outside, share_moved_inside, weights_of
from tests.tiny import save_model

# Processes of their own, which one server forks.
pytestmark = pytest.mark.xdist_group("parallel")

KINDS = [kind for kind in ("sgd", "adamw", "adamw-fused", "adafactor", "muon") if kind in OPTIMIZERS]
# torch's own Adafactor steps no DTensor, and its Muon not all of them.
CASES = [("ddp", kind) for kind in KINDS] + [("fsdp2", kind) for kind in ("sgd", "adamw", "adamw-fused")]
CASES.append(("hsdp", "adamw"))
STEPS = 3


def random_mask(density: float = 0.3) -> UpdateMask:
    generator = torch.Generator().manual_seed(5)
    bools = {n: torch.rand(p.shape, generator=generator) < density for n, p in make_model().named_parameters()}
    return UpdateMask.from_bools(bools)


GIVEN = {"masked": random_mask(), "unmasked": None}


def train_loop(model: nn.Module, make: Make, mask: UpdateMask | None) -> dict[str, object]:
    """Train with clipping, on the same data in every process."""
    optimizers = make(model)
    before = weights_of(model)
    subnetwork = None if mask is None else Subnetwork(model, mask, optimizers)
    norms = []
    for step in range(STEPS):
        torch.manual_seed(step)
        # Twice: gradients are accumulated.
        for _ in range(2):
            model(torch.randint(0, 7, (4, 5))).square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        norms.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    result = {"norms": norms, "before": before, "after": weights_of(model)}
    if subnetwork is not None:
        result |= {"moved": subnetwork.moved(), "bytes": subnetwork.state_bytes, "said": subnetwork.described()}
        subnetwork.close()
    return result


def train_all(mask: UpdateMask) -> dict[tuple[str, str, bool] | str, dict[str, object]]:
    results: dict[tuple[str, str, bool] | str, dict[str, object]] = {
        (how, kind, given is not None): train_loop(spread(make_model(), how), OPTIMIZERS[kind], given)
        for how, kind in CASES
        for given in (mask, None)
    }
    return results | {"resumed": resume_sharded(mask), "fsdp1": {"refused": refused_with_fsdp1(mask)}}


def refused_with_fsdp1(mask: UpdateMask) -> str:
    model = spread(make_model(), "fsdp1")
    try:
        Subnetwork(model, mask, OPTIMIZERS["adamw"](model))
    except UnsupportedModelError as error:
        return str(error)
    return "not refused"


def resume_sharded(mask: UpdateMask) -> dict[str, object]:
    """Save model and optimizer after a step, as accelerate does under FSDP2, and go on from there with others."""
    model = spread(make_model(), "fsdp2")
    (optimizer,) = OPTIMIZERS["adamw"](model)
    whole = StateDictOptions(full_state_dict=True)
    with Subnetwork(model, mask, optimizer):
        train_step(model, optimizer, 0)
        saved = get_model_state_dict(model, options=whole), get_optimizer_state_dict(model, optimizer, options=whole)
        saved = copy.deepcopy(saved)
        train_step(model, optimizer, 1)
    again = spread(make_model(), "fsdp2")
    (other,) = OPTIMIZERS["adamw"](again)
    set_model_state_dict(again, saved[0], options=whole)
    set_optimizer_state_dict(again, other, saved[1], options=whole)
    with Subnetwork(again, mask, other, resumed=True) as subnetwork:
        train_step(again, other, 1)
        sizes = subnetwork.state_bytes
    return {"after": weights_of(model), "resumed": weights_of(again), "state": saved[1]["state"], "bytes": sizes}


def farthest(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    return max(float((some[name] - others[name]).abs().max()) for name in some)


def test_weights_outside_stay_and_those_inside_move_as_on_one_process() -> None:
    mask = random_mask()
    inside = {name: mask.bools(name) for name in mask.shapes}
    together = run_together(train_all, 2, mask)
    alone = {kind: train_loop(make_model(), OPTIMIZERS[kind], mask) for kind in KINDS}
    full = {kind: train_loop(make_model(), OPTIMIZERS[kind], None) for kind in KINDS}
    for where in CASES:
        how, kind = where
        for results in together:
            masked, unmasked = results[how, kind, True], results[how, kind, False]
            assert not moved_outside(inside, masked["before"], masked["after"]), where
            assert not masked["moved"], where
            assert share_moved_inside(inside, masked["before"], masked["after"]) > 0.9, where
            # As closely as without a mask: the sums over processes may round otherwise.
            closely = farthest(unmasked["after"], full[kind]["after"]) + 1e-6
            assert farthest(masked["after"], alone[kind]["after"]) <= closely, where
            assert masked["norms"] == pytest.approx(alone[kind]["norms"], rel=1e-5), where
            assert masked["norms"][0] < unmasked["norms"][0], where
            kept, without = masked["bytes"]
            assert (kept < 0.4 * without) == (kind in ("sgd", "adamw")), (where, masked["said"])
    for results in together:
        resumed = results["resumed"]
        assert all(torch.equal(weights, resumed["resumed"][name]) for name, weights in resumed["after"].items())
        assert resumed["bytes"][0] < 0.4 * resumed["bytes"][1]
        assert results["fsdp1"]["refused"].startswith("FSDP1 hides the parameters in flat ones. Use FSDP2")
    # What the first process would save: of the shape of the weights, and zero outside.
    state = together[0]["resumed"]["state"]
    assert {name: state[name]["exp_avg"].shape for name in inside} == {n: bools.shape for n, bools in inside.items()}
    assert all(not state[name]["exp_avg"][~bools].any() for name, bools in inside.items())
    assert all(state[name]["exp_avg"][bools].any() for name, bools in inside.items() if bools.sum() > 20)


def train_with_zero(model: str, output: str, mask: str) -> dict[str, dict[str, torch.Tensor]]:
    """Train with ZeRO-1 and with ZeRO-2, and return the float32 weights of this process, by how they were trained."""
    from accelerate.state import AcceleratorState

    found = {}
    for how in ("zero1", "zero2"):
        AcceleratorState._reset_state(reset_partial_state=True)
        kept: dict[str, torch.Tensor] = {}
        settings = {
            "callbacks": [SubnetworkCallback(mask), KeepMasters(kept)],
            "monitored": False,
            "learning_rate": 0.01,
            "arguments": {"weight_decay": DECAY},
        }
        result = train(how, model, f"{output}/{how}", settings)
        assert all(math.isfinite(loss) for loss in result["losses"])
        found |= {how: kept}
        found |= {f"{how} {name}": loop_with_zero(int(how[-1]), given) for name, given in GIVEN.items()}
    return found


def loop_with_zero(stage: int, mask: UpdateMask | None) -> dict[str, torch.Tensor]:
    """Train in a loop of one's own, on the same data in every process."""
    import deepspeed

    model = make_model().bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=DECAY)
    settings = {
        "train_micro_batch_size_per_gpu": 4,
        "bf16": {"enabled": True},
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage},
    }
    engine, wrapped, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    with nullcontext() if mask is None else Subnetwork(engine.module, mask, wrapped):
        for step in range(STEPS):
            engine.backward(loss_of(engine, step))
            engine.step()
    return masters_of(engine.module)


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    torch.manual_seed(step)
    return model(torch.randint(0, 7, (4, 5))).float().square().mean()


def masters_by_hand(mask: UpdateMask | None) -> dict[str, torch.Tensor]:
    """What float32 weights become under a bfloat16 model, in one process and without any of this."""
    model = make_model().bfloat16()
    masters = {name: nn.Parameter(p.detach().float()) for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(masters.values(), lr=0.01, weight_decay=DECAY)
    base = {name: master.detach().clone() for name, master in masters.items()}
    inside = {n: torch.ones_like(p).bool() if mask is None else mask.bools(n) for n, p in base.items()}
    for step in range(STEPS):
        model.zero_grad()
        loss_of(model, step).backward()
        for name, parameter in model.named_parameters():
            masters[name].grad = parameter.grad.float() * inside[name]
        optimizer.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                masters[name].copy_(torch.where(inside[name], masters[name], base[name]))
                parameter.copy_(masters[name])
    return {name: master.detach() for name, master in masters.items()}


def masters_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The fragments of the float32 weights that DeepSpeed steps in this process, among NaN."""
    found = {}
    for name, parameter in model.named_parameters():
        held = parameter._hp_mapping
        if held is not None:
            whole = torch.full((parameter.numel(),), math.nan)
            address = held.lp_fragment_address
            whole[address.start :][: address.numel] = held.hp_fragment.detach()
            found[name] = whole.view(parameter.shape)
    return found


class KeepMasters(TrainerCallback):
    """Keeps them when training ends."""

    def __init__(self, kept: dict[str, torch.Tensor]) -> None:
        self.kept = kept

    def on_train_end(self, args: object, state: object, control: object, **kwargs: Any) -> None:
        self.kept |= masters_of(kwargs["model"])


def test_float32_weights_of_deepspeed_stay_at_the_base_outside(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    model = save_model(tmp_path / "model")
    base = load_file(model / "model.safetensors")
    named = dict(AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).named_parameters())
    generator = torch.Generator().manual_seed(6)
    bools = {name: torch.rand(p.shape, generator=generator) < 0.3 for name, p in named.items()}
    UpdateMask.from_bools(bools).save(tmp_path / "mask.safetensors")
    arguments = (str(model), str(tmp_path), str(tmp_path / "mask.safetensors"))
    results = run_as_torchrun(2, train_with_zero, arguments)
    for how in ("zero1", "zero2"):
        after = load_file(tmp_path / how / "final" / "model.safetensors")
        assert not moved_outside(bools, base, after), how
        assert share_moved_inside(bools, base, after) > 0.5, how
        seen = dict.fromkeys(bools, 0)
        for result in results:
            for name, weights in result[how].items():
                here = ~weights.isnan()
                seen[name] += int(here.sum())
                outside = here & ~bools[name]
                assert torch.equal(weights[outside], base[name].float()[outside]), (how, name)
        assert seen == {name: mask.numel() for name, mask in bools.items()}, how
        # Inside, as closely as without a mask: DeepSpeed's sums are of bfloat16.
        distances = {name: distance(results, f"{how} {name}", masters_by_hand(given)) for name, given in GIVEN.items()}
        assert distances["masked"] <= 1.5 * distances["unmasked"] < 0.005, (how, distances)


def distance(results: list[dict[str, dict[str, torch.Tensor]]], how: str, expected: dict[str, torch.Tensor]) -> float:
    """How far the weights inside that the processes hold are from those expected, in the mean."""
    mask, found = random_mask(), []
    for result in results:
        for name, weights in result[how].items():
            here = ~weights.isnan() & mask.bools(name)
            found.append((weights[here] - expected[name][here]).abs())
    assert sum(map(len, found)) == mask.count()
    return float(torch.cat(found).mean())
