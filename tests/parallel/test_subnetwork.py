"""Subnetworks in parallel trainings: outside the mask the base, to the bit; inside, what one process makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monitor import Subnetwork, UpdateMask
from tests.parallel.models import make_model, spread
from tests.parallel.processes import run_together
from tests.subnetwork.optimizers import OPTIMIZERS, Make, moved_outside, share_moved_inside, weights_of

# Processes of their own, which one server forks.
pytestmark = pytest.mark.xdist_group("parallel")

KINDS = ("sgd", "adamw", "adamw-fused", "adafactor", "muon")
HOWS = ("ddp", "fsdp2")
STEPS = 3


def random_mask(density: float = 0.3) -> UpdateMask:
    generator = torch.Generator().manual_seed(5)
    bools = {n: torch.rand(p.shape, generator=generator) < density for n, p in make_model().named_parameters()}
    return UpdateMask.from_bools(bools)


def train(model: nn.Module, make: Make, mask: UpdateMask | None) -> dict[str, object]:
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


def train_all(masked: tuple[UpdateMask | None, ...]) -> dict[tuple[str, str, bool], dict[str, object]]:
    return {
        (how, kind, mask is not None): train(spread(make_model(), how), OPTIMIZERS[kind], mask)
        for how in HOWS
        for kind in KINDS
        for mask in masked
    }


def farthest(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    return max(float((some[name] - others[name]).abs().max()) for name in some)


def test_weights_outside_stay_and_those_inside_move_as_on_one_process() -> None:
    mask = random_mask()
    inside = {name: mask.bools(name) for name in mask.shapes}
    together = run_together(train_all, 2, (mask, None))
    for kind in KINDS:
        alone, full = (train(make_model(), OPTIMIZERS[kind], given) for given in (mask, None))
        for how in HOWS:
            for results in together:
                masked, unmasked = results[how, kind, True], results[how, kind, False]
                where = (how, kind)
                assert not moved_outside(inside, masked["before"], masked["after"]), where
                assert not masked["moved"], where
                assert share_moved_inside(inside, masked["before"], masked["after"]) > 0.9, where
                # As closely as without a mask: the sums over processes may round otherwise.
                closely = farthest(unmasked["after"], full["after"]) + 1e-6
                assert farthest(masked["after"], alone["after"]) <= closely, where
                assert masked["norms"] == pytest.approx(alone["norms"], rel=1e-5), where
                assert max(masked["norms"]) < min(unmasked["norms"]), where
                kept, without = masked["bytes"]
                packed = how == "ddp" and kind in ("sgd", "adamw")
                assert (kept < 0.4 * without) == packed, (where, masked["said"])
