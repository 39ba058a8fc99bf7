"""Representable steps, counted by the places of values among all values of the dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monitor.analysis.structure.steps import BUCKETS, representable_steps, step_histogram
from tests.analysis.structure.arrays import exact, nasty_pair, steps_between


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_are_counted_as_by_a_list_of_all_values(dtype: torch.dtype) -> None:
    base, current = nasty_pair((4099,), dtype)

    histogram = step_histogram(base, current)

    before, after = exact(base), exact(current)
    finite = np.isfinite(before) & np.isfinite(after)
    steps = steps_between(before[finite], after[finite], dtype)
    expected = [((steps >= 2**bucket) & (steps < 2 ** (bucket + 1))).sum() for bucket in range(BUCKETS)]
    assert histogram.tolist() == expected
    assert histogram.sum() == (before[finite] != after[finite]).sum() > 0


def test_float32_counts_as_many_steps_as_nextafter_takes() -> None:
    start = np.array([1.0, -1e-45, 0.0, 3e38], dtype=np.float32)
    end = start.copy()
    for _ in range(5):
        end = np.nextafter(end, np.float32(np.inf))

    assert representable_steps(torch.from_numpy(start), torch.from_numpy(end)).tolist() == [5] * 4


def test_the_two_zeros_are_one_value_and_the_furthest_way_is_counted() -> None:
    largest = torch.tensor([torch.finfo(torch.float32).max])

    assert representable_steps(torch.tensor([0.0]), torch.tensor([-0.0])).item() == 0
    assert step_histogram(-largest, largest)[31] == 1


def test_no_weights_took_no_steps() -> None:
    assert step_histogram(torch.empty(0), torch.empty(0)).sum() == 0
