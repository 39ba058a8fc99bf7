"""Models beyond the memory of this machine: which tiles a launch has, and where in memory a tile far behind looks."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from monitor.observe.kernels import triton_tiles
from monitor.observe.kernels.gpu import BLOCKS, WORDS, tiles_of

BLOCK = WORDS * 32
TILE = BLOCK * BLOCKS
# Of CUDA's and HIP's grids, in the first dimension.
LARGEST_GRID = 2**31 - 1


def llama_70b() -> Iterator[tuple[int, int]]:
    """Yield (number of weights, how often) of each parameter's shape."""
    hidden, layers, key_value, feed_forward, vocabulary = 8192, 80, 1024, 28672, 128256
    yield hidden * hidden, 2 * layers
    yield hidden * key_value, 2 * layers
    yield hidden * feed_forward, 3 * layers
    yield hidden, 2 * layers + 1
    yield vocabulary * hidden, 2


def deepseek_671b() -> Iterator[tuple[int, int]]:
    """Yield (number of weights, how often) of each parameter's shape; a layer's experts are one parameter each way."""
    hidden, layers, dense, experts, expert, heads = 7168, 61, 3, 256, 2048, 128
    yield experts * 2 * expert * hidden, layers - dense
    yield experts * hidden * expert, layers - dense
    yield expert * hidden, 3 * (layers - dense)
    yield experts * hidden, layers - dense
    yield experts, layers - dense
    yield 18432 * hidden, 3 * dense
    yield 1536 * hidden, layers
    yield heads * 192 * 1536, layers
    yield 576 * hidden, layers
    yield heads * 256 * 512, layers
    yield heads * 128 * hidden, layers
    yield hidden, 2 * layers + 1
    yield 129280 * hidden, 2


@pytest.mark.parametrize(
    ("shapes", "size"), [(list(llama_70b()), 70.6e9), (list(deepseek_671b()), 671e9)], ids=["70B", "671B"]
)
@pytest.mark.parametrize("aligned", [True, False])
def test_every_weight_of_a_large_model_is_in_one_tile(
    shapes: list[tuple[int, int]], size: float, aligned: bool
) -> None:
    programs = weights = 0
    for count, times in shapes:
        ends = []
        for wide in (True, False):
            tiles = tiles_of([(count, aligned)], BLOCK, TILE, wide=wide)
            assert tiles.dtype == np.int64
            programs += times * len(tiles)
            firsts = tiles[:, 1]
            assert not (firsts % 32).any(), "a program has whole words of the masks"
            # A launch of aligned weights measures full blocks only.
            last = count // BLOCK * BLOCK if wide else count
            ends.append(np.minimum(firsts + TILE, last))
            weights += times * int((ends[-1] - firsts).sum())
        covered = np.concatenate(ends)
        assert (np.diff(covered) > 0).all(), "no tile lies in another"
        assert covered[-1] == count
    assert weights == sum(count * times for count, times in shapes) == pytest.approx(size, rel=0.01)
    assert programs < LARGEST_GRID
    # Lines of tiles beside the 3.25 bytes that the monitor keeps of each weight.
    assert 16 * programs / weights < 0.001


def test_tiles_name_the_line_of_their_tensor() -> None:
    tiles = tiles_of([(TILE + BLOCK + 5, True), (7, True), (3 * BLOCK, False)], BLOCK, TILE, wide=True)
    assert tiles.tolist() == [[0, 0], [0, TILE]]
    rest = tiles_of([(TILE + BLOCK + 5, True), (7, True), (3 * BLOCK, False)], BLOCK, TILE, wide=False)
    assert rest.tolist() == [[0, TILE + BLOCK], [1, 0], [2, 0]]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="with a GPU, test_gpu.py has a tensor as large")
@pytest.mark.parametrize("first", [2**31, 256 * 4096 * 7168 // BLOCK * BLOCK - BLOCK])
def test_a_tile_far_behind_measures_what_lies_there(first: int) -> None:
    """Addresses as if all the weights before it were there: of experts that are one parameter, 7.5 billion."""
    current, base = (torch.ones(BLOCK, dtype=torch.bfloat16) for _ in range(2))
    changed = [0, 33, BLOCK - 1]
    current[changed] = 2.0
    mask, touched, mine = (torch.zeros(BLOCK // 32, dtype=torch.int32) for _ in range(3))
    mine[1] = 2
    # Low bytes of 1.0, whose bits are 0x3F80.
    previous = torch.full((BLOCK,), 0x80, dtype=torch.uint8)
    widths = [(current, 2 * first), (base, 2 * first), (mask, first // 8), (previous, first), (touched, first // 8)]
    line = [tensor.data_ptr() - before for tensor, before in widths]
    integers, squares = torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    triton_tiles.measure[(1,)](
        torch.tensor([[0, first]]),
        torch.tensor([[*line, first + BLOCK, 0, mine.data_ptr() - first // 8]]),
        torch.zeros(1, dtype=torch.int32),
        0,
        integers,
        squares,
        torch.zeros(1, dtype=torch.int64),
        8,
        8,
        STORED=0,
        KEPT=0,
        VISIBLE=0,
        STEPS=True,
        ATOL=False,
        LIMITS=0,
        REFERENCES=1,
        WIDE=True,
        WORDS=WORDS,
        BLOCKS=1,
    )
    # 2.0 is 0x4000: its low byte differs.
    assert integers[0].tolist() == [3, 3, 0, 3, 3, 0, 0, 1]
    assert squares[0] == 3.0
    assert mask.tolist() == touched.tolist() == [1, 2, *[0] * (BLOCK // 32 - 3), -(2**31)]
    assert previous.nonzero().numel() == BLOCK - len(changed)
