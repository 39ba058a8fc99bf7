from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from monitor.analysis.masks import counts as counting
from monitor.analysis.masks.comparison import Compared, Comparison
from monitor.analysis.masks.counts import count_masks
from monitor.analysis.masks.fitting import FittingMasks
from tests.analysis.masks.mask_files import SHAPES, Bools, random_bools, save


def compare(directory: Path, *masks: Bools, seed: int | None = None) -> Comparison:
    paths = [save(directory / f"{position}.safetensors", bools) for position, bools in enumerate(masks)]
    with FittingMasks.open(paths) as fitting:
        return Comparison(fitting, count_masks(fitting, seed, lambda weights: None), seed, None)


def check(compared: Compared, a: Bools, b: Bools, names: Iterable[str]) -> None:
    """Check a comparison against numpy's float64, computed from the booleans."""
    each = [(a[name].astype(float).ravel(), b[name].astype(float).ravel()) for name in names]
    flat_a, flat_b = (np.concatenate([pair[side] for pair in each]) for side in (0, 1))
    counts, whole, by_matrix = compared.overlap.counts, compared.overlap.whole, compared.overlap.by_matrix
    both, either = (flat_a * flat_b).sum(), np.maximum(flat_a, flat_b).sum()

    assert (counts.weights, counts.changed, counts.reference) == (flat_a.size, flat_a.sum(), flat_b.sum())
    assert counts.intersection == both
    with np.errstate(invalid="ignore", divide="ignore"):
        same = [
            (counts.o1, both / flat_a.sum()),
            (counts.o2, both / flat_b.sum()),
            (counts.jaccard, both / either),
            (whole.o1, flat_b.mean() if flat_a.any() else math.nan),
            (whole.o2, flat_a.mean() if flat_b.any() else math.nan),
            (whole.jaccard, density_of_union(flat_a.mean(), flat_b.mean())),
            (whole.lift, both / (flat_a.mean() * flat_b.mean() * flat_a.size)),
            (whole.z_score, (both - expected([(flat_a, flat_b)])) / np.sqrt(variance([(flat_a, flat_b)]))),
            (by_matrix.expected, expected(each)),
            (by_matrix.o1, expected(each) / flat_a.sum()),
            (by_matrix.lift, both / expected(each)),
            (by_matrix.z_score, (both - expected(each)) / np.sqrt(variance(each))),
        ]
    for found, there in same:
        assert found == pytest.approx(there if math.isfinite(there) else math.nan, rel=1e-12, nan_ok=True)


def density_of_union(p: float, q: float) -> float:
    return p * q / (p + q - p * q)


def expected(matrices: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    return sum(a.mean() * b.sum() for a, b in matrices if a.size)


def variance(matrices: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Of the number of common ones when one of the two is shuffled: (n − 1)·var(a)·var(b), var with n − 1."""
    return sum((a.size - 1) * a.var(ddof=1) * b.var(ddof=1) for a, b in matrices if a.size > 1)


# Half of the chance differs from matrix to matrix.
UNEVEN = {"model.embed_tokens.weight": 0.02, "model.layers.0.self_attn.q_proj.weight": 0.9}


def test_overlaps_are_those_of_numpy_as_a_whole_by_layer_and_by_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "WORDS_OF_A_FILE", 3)
    masks = random_bools(1, UNEVEN), random_bools(2, UNEVEN), random_bools(3)
    comparison = compare(tmp_path, *masks)
    layers = {"00": [], "11": [], "-": []}
    for name in SHAPES:
        layers["00" if ".0." in name else "11" if ".11." in name else "-"].append(name)
    for a, b in ((0, 1), (1, 0), (1, 2)):
        check(comparison.whole(a, b), masks[a], masks[b], SHAPES)
        assert list(comparison.layers(a, b)) == list(layers)
        for label, compared in comparison.layers(a, b).items():
            check(compared, masks[a], masks[b], layers[label])
        modules = comparison.modules(a, b)
        assert list(modules) == ["embed_tokens", "self_attn.q_proj", "mlp.up_proj", "norm", "scale"]
        check(modules["self_attn.q_proj"], masks[a], masks[b], [name for name in SHAPES if "q_proj" in name])


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.3), (1.0, 0.3), (0.0, 0.0), (1.0, 1.0)])
def test_empty_and_full_masks_have_no_z_score(first: float, second: float, tmp_path: Path) -> None:
    a, b = random_bools(1, first), random_bools(2, second)
    compared = compare(tmp_path, a, b).whole(0, 1)
    check(compared, a, b, SHAPES)
    assert math.isnan(compared.overlap.whole.z_score)
    assert math.isnan(compared.overlap.by_matrix.z_score)


def test_parameters_are_told_apart_by_name_not_by_place(tmp_path: Path) -> None:
    a, b = random_bools(1), random_bools(2)
    check(compare(tmp_path, a, dict(reversed(b.items()))).whole(0, 1), a, b, SHAPES)


def test_what_only_one_mask_covers_is_left_out_and_said(tmp_path: Path) -> None:
    a, b = random_bools(1), random_bools(2)
    left_out = ["model.layers.0.self_attn.q_proj.weight", "scale"]
    del a[left_out[0]]
    del b[left_out[1]]
    comparison = compare(tmp_path, a, b)
    check(comparison.whole(0, 1), a, b, [name for name in SHAPES if name not in left_out])
    assert sorted(comparison.masks.left_out) == left_out
    (warning,) = comparison.masks.warnings
    assert "all counts are of the 5 parameters that every mask covers" in warning


def test_a_random_control_has_as_many_ones_in_each_matrix_and_overlaps_by_chance(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    name = "model.layers.0.mlp.up_proj.weight"
    common = generator.random(200_000)
    a, b = ({name: np.asarray(common + 0.1 * generator.random(common.size) < 0.3)} for _ in range(2))
    comparison = compare(tmp_path, a, b, seed=1)
    compared = comparison.whole(0, 1)
    assert compared.control is not None
    assert compared.control.counts.reference == b[name].sum()
    assert compared.overlap.by_matrix.z_score > 100
    assert abs(compared.control.by_matrix.z_score) < 5
    assert compared.control.by_matrix.expected == compared.overlap.by_matrix.expected
    again, other = (compare(tmp_path, a, b, seed=seed).whole(0, 1).control for seed in (1, 2))
    assert again == compared.control != other
