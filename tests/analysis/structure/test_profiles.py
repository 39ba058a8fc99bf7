"""Profiles of rows and columns: counts and variances against numpy, and what they say of stripes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monitor.analysis.structure.profiles import Lines, lines_of_stripes, profile


@pytest.mark.parametrize(("lines", "axis"), [(Lines.ROWS, 1), (Lines.COLUMNS, 0)])
def test_ratios_and_variances_are_those_of_numpy(lines: Lines, axis: int) -> None:
    mask = np.random.default_rng(3).random((40, 90)) < 0.3

    found = profile(torch.from_numpy(mask), lines)

    ratios = mask.mean(axis=axis)
    density = mask.mean()
    assert np.allclose(found.ratios, ratios)
    assert found.variance == pytest.approx(((ratios - ratios.mean()) ** 2).sum() / (ratios.size - 1))
    assert found.binomial_variance == pytest.approx(density * (1 - density) / mask.shape[axis])
    assert found.dispersion == pytest.approx(found.variance / found.binomial_variance)


def test_chance_has_a_dispersion_of_one_and_stripes_have_more() -> None:
    rng = np.random.default_rng(5)
    even = torch.from_numpy(rng.random((500, 400)) < 0.2)
    rows = torch.from_numpy(rng.random((500, 400)) < rng.choice([0.05, 0.35], 500)[:, None])

    for lines in Lines:
        found = profile(even, lines)
        assert abs(found.dispersion - 1) < 4 * found.chance_deviation
    assert profile(rows, Lines.ROWS).dispersion > 20
    # As many in each column as chance has, or fewer.
    assert profile(rows, Lines.COLUMNS).dispersion < 1.3


@pytest.mark.parametrize("mask", [torch.zeros(4, 5, dtype=torch.bool), torch.ones(4, 5, dtype=torch.bool)])
def test_nothing_is_said_where_nothing_or_everything_changed(mask: torch.Tensor) -> None:
    assert math.isnan(profile(mask, Lines.ROWS).dispersion)


def test_one_row_has_no_variance() -> None:
    assert math.isnan(profile(torch.tensor([[True, False]]), Lines.ROWS).dispersion)


@pytest.mark.parametrize(
    ("module", "lines"),
    [
        ("self_attn.k_proj", Lines.ROWS),
        ("self_attn.qkv_proj", Lines.ROWS),
        ("attn.c_attn", Lines.COLUMNS),
        ("attn.c_proj", Lines.ROWS),
        ("mlp.c_proj", None),
        ("attention.dense", Lines.COLUMNS),
        ("attention.query_key_value", Lines.ROWS),
        ("self_attn.out_proj", Lines.COLUMNS),
        ("mlp.down_proj", None),
        ("embed_tokens", None),
    ],
)
def test_where_stripes_are_looked_for(module: str, lines: Lines | None) -> None:
    assert lines_of_stripes(module) is lines
