"""Update: mask, Δ, and what has no size, against numpy, and against the kernels of training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monitor.analysis.structure.matrices import matrices_of
from monitor.analysis.structure.update import Update
from monitor.observe.bits import pack
from monitor.observe.criterion import Criterion
from monitor.observe.kernels import reference
from monitor.observe.kernels.contract import CHANGED, SQUARED_NORM, Rules, Segment
from tests.analysis.structure.arrays import exact, nasty_pair, rounded, sized_difference

CRITERIA = [Criterion(), Criterion(1e-5), Criterion(0.0)]


@pytest.mark.parametrize("visible_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_what_changed_and_by_how_much_is_what_numpy_finds(stored: torch.dtype, visible_dtype: torch.dtype) -> None:
    base, finetuned = nasty_pair((257, 31), stored)

    update = Update.between(base, finetuned, visible_dtype, Criterion())

    before, after = rounded(base, visible_dtype), rounded(finetuned, visible_dtype)
    differs = before != after
    difference = sized_difference(before, after)
    assert np.array_equal(update.changed.numpy(), differs)
    assert np.array_equal(exact(update.delta), difference)
    assert update.without_size == (differs & (difference == 0)).sum() > 0


@pytest.mark.parametrize("criterion", CRITERIA, ids=str)
@pytest.mark.parametrize("visible_dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_mask_is_that_of_training(visible_dtype: torch.dtype, criterion: Criterion) -> None:
    base, finetuned = nasty_pair((257, 31), torch.float32)
    segment = Segment(finetuned.view(-1), base.view(-1), torch.zeros(-(-base.numel() // 32), dtype=torch.int32))
    counts = reference.measure([segment], Rules(visible_dtype, criterion))

    update = Update.between(base, finetuned, visible_dtype, criterion)

    assert torch.equal(pack(update.changed.view(-1)), segment.mask)
    assert update.changed.sum() == counts.integers[0, CHANGED]
    assert update.delta.double().square().sum().item() == pytest.approx(float(counts.floats[0, SQUARED_NORM]), rel=1e-9)


def test_the_tensors_that_were_given_stay_as_they_are() -> None:
    base, finetuned = nasty_pair((8, 8), torch.float32)
    copies = base.clone(), finetuned.clone()

    Update.between(base, finetuned, torch.float32, Criterion(1e-5))

    for before, after in zip(copies, (base, finetuned), strict=True):
        assert torch.equal(before.view(torch.int32), after.view(torch.int32))


def test_strides_make_no_difference() -> None:
    base, finetuned = nasty_pair((16, 12), torch.bfloat16)
    straight = Update.between(base, finetuned, torch.bfloat16, Criterion())

    strided = Update.between(base.T.contiguous().T, finetuned.repeat(2, 1)[:16], torch.bfloat16, Criterion())

    assert torch.equal(strided.delta, straight.delta)
    assert torch.equal(strided.changed, straight.changed)


def test_no_weights_are_no_update() -> None:
    update = Update.between(torch.empty(0, 3), torch.empty(0, 3), torch.bfloat16, Criterion())

    assert (update.weights, update.without_size, update.changed.sum()) == (0, 0, 0)


def test_each_expert_of_a_stack_is_a_matrix_of_its_own() -> None:
    base = torch.zeros(3, 4, 5)
    finetuned = base.clone()
    finetuned[1] = 1
    update = Update.between(base, finetuned, torch.bfloat16, Criterion())

    matrices = [update.matrix(place) for place in matrices_of("model.layers.0.mlp.experts.up_proj", (3, 4, 5))]

    assert [matrix.base.shape for matrix in matrices] == [(4, 5)] * 3
    assert [int(matrix.changed.sum()) for matrix in matrices] == [0, 20, 0]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.norm.weight", (8,), []),
        ("scale", (), []),
        ("model.layers.0.q_proj.weight", (0, 8), []),
        ("model.layers.0.mlp.experts.up_proj_bias", (4, 8), []),
        ("model.layers.0.q_proj.weight", (4, 8), [(4, 8)]),
        ("conv1d.weight", (6, 1, 4), [(6, 4)]),
        ("model.layers.0.mlp.experts.7.up_proj.weight", (4, 8), [(4, 8)]),
    ],
)
def test_what_is_a_matrix(name: str, shape: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    assert [place.shape for place in matrices_of(name, shape)] == expected
