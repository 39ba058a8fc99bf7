"""Masks whose words are on a GPU: combined, counted and written as those in host memory are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.structural import StructuralMask
from tests.gpu.target import DEVICE, needs_gpu

SHAPES = {"a.weight": (1 << 10, 1500), "b.weight": (33,), "c.weight": (0,)}


def random_mask(seed: int) -> UpdateMask:
    generator = torch.Generator().manual_seed(seed)
    return UpdateMask.from_bools({name: torch.rand(shape, generator=generator) < 0.3 for name, shape in SHAPES.items()})


@pytest.mark.gpu
@needs_gpu
def test_masks_on_a_gpu_combine_and_count_as_on_the_host(tmp_path: Path) -> None:
    on_host = random_mask(1), random_mask(2)
    a, b = (
        UpdateMask({name: words.to(DEVICE) for name, words in m.words.items()}, m.shapes, m.metadata) for m in on_host
    )
    for found, expected in ((a & b, on_host[0] & on_host[1]), (a - b, on_host[0] - on_host[1])):
        assert all(words.device.type == DEVICE for words in found.words.values())
        assert found.counts() == expected.counts()
    assert a.overlap(b) == on_host[0].overlap(on_host[1])
    a.save(tmp_path / "mask.safetensors")
    assert (UpdateMask.load(tmp_path / "mask.safetensors") ^ on_host[0]).count() == 0


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("text", ["lowest:0.1", "lowest:0.3", "random:0.1"])
def test_structural_masks_made_on_a_gpu_are_those_made_on_the_host(text: str) -> None:
    """Of float32 weights that are rounded there, with NaN, zeros of both signs, and many that are alike."""
    weights = torch.randn(5_000_011, generator=torch.Generator().manual_seed(0)) * 0.02
    weights[::5], weights[1::50], weights[2::50] = 0.0, -0.0, float("nan")
    mask = StructuralMask.parse(text)
    assert mask is not None
    made = [
        mask.words_of("a", tuple(weights.shape), lambda: weights, torch.bfloat16, torch.device(device))
        for device in (DEVICE, "cpu")
    ]
    assert made[0].device.type == DEVICE
    assert torch.equal(made[0].cpu(), made[1])
