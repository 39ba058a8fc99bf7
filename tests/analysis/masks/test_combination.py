from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from monitor.analysis.masks import combination
from monitor.analysis.masks.combination import ONLY_FIRST, Combination, Combined, at_least, write_combination
from monitor.analysis.masks.fitting import FittingMasks
from monitor.errors import MaskFileError
from monitor.observe.masks.file import MaskFile
from tests.analysis.masks.mask_files import SHAPES, Bools, load, random_bools, save

Expected = Callable[[np.ndarray], np.ndarray]
"""Booleans of shape (masks, n) → those of the combination."""

COMBINATIONS: dict[str, tuple[Combination, Expected]] = {
    "union": (at_least(1), lambda bits: bits.any(axis=0)),
    "intersection": (at_least(5), lambda bits: bits.all(axis=0)),
    "in at least 3": (at_least(3), lambda bits: bits.sum(axis=0) >= 3),
    "in at least 4": (at_least(4), lambda bits: bits.sum(axis=0) >= 4),
    "difference": (ONLY_FIRST, lambda bits: bits[0] & ~bits[1:].any(axis=0)),
}


def combine(directory: Path, masks: list[Bools], how: Combination) -> Combined:
    paths = [save(directory / f"{position}.safetensors", bools) for position, bools in enumerate(masks)]
    with FittingMasks.open(paths, all_cover_the_same=True) as fitting:
        return write_combination(directory / "made.safetensors", fitting, how, "made", lambda weights: None)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_are_those_of_numpy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combination, "WORDS_OF_A_FILE", 3)
    monkeypatch.setattr(combination, "ELEMENTS_ON_CPU", 2)
    how, expected = COMBINATIONS[name]
    masks = [random_bools(seed, 0.5) for seed in range(5)]
    # In another order, which is by name.
    made = combine(tmp_path, [masks[0], *(dict(reversed(bools.items())) for bools in masks[1:])], how)
    written = load(tmp_path / "made.safetensors")
    assert list(written) == list(SHAPES)
    for parameter in SHAPES:
        assert np.array_equal(written[parameter], expected(np.stack([bools[parameter] for bools in masks])))
    assert made.ones == sum(bits.sum() for bits in written.values())
    assert made.density == made.ones / sum(bits.size for bits in written.values())


@pytest.mark.parametrize("name", COMBINATIONS)
def test_chance_is_the_sum_over_all_that_can_happen(name: str) -> None:
    how, expected = COMBINATIONS[name]
    densities = random.Random(0).choices([0.0, 0.1, 0.5, 0.83, 1.0], k=5)
    probability = 0.0
    for happened in product([False, True], repeat=5):
        if expected(np.array(happened)[:, None])[0]:
            probability += np.prod([p if yes else 1 - p for yes, p in zip(happened, densities, strict=True)])
    assert how.probability(densities) == pytest.approx(probability, rel=1e-12)


def test_what_chance_gives_is_added_up_over_matrices(tmp_path: Path) -> None:
    masks = [random_bools(seed, {"model.embed_tokens.weight": 0.9}) for seed in range(2)]
    made = combine(tmp_path, masks, at_least(2))
    there = sum(a.mean() * b.mean() * a.size for a, b in zip(*(m.values() for m in masks), strict=True) if a.size)
    assert made.expected == pytest.approx(there, rel=1e-12)


def test_the_file_says_what_all_masks_say_and_what_it_is_made_of(tmp_path: Path) -> None:
    combine(tmp_path, [random_bools(1), random_bools(2)], at_least(2))
    with MaskFile(tmp_path / "made.safetensors") as file:
        assert (file.metadata.criterion, file.metadata.base_fingerprint) == ("bits", "ab" * 16)
        assert file.fields["made_by"] == "made"
        assert file.fields["made_of"] == f"{tmp_path / '0.safetensors'}, {tmp_path / '1.safetensors'}"


def test_nothing_is_left_where_a_mask_turns_out_damaged(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{seed}.safetensors", random_bools(seed)) for seed in range(2)]
    whole = paths[1].read_bytes()
    # More bits than the last parameter has weights.
    paths[1].write_bytes(whole[:-4] + b"\xff" * 4)
    with FittingMasks.open(paths) as fitting, pytest.raises(MaskFileError, match="damaged"):
        write_combination(tmp_path / "made", fitting, at_least(1), "union", lambda weights: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors"]


@pytest.mark.parametrize("masks", [1, 2, 3, 4, 5])
def test_what_no_mask_has_is_in_no_combination(masks: int) -> None:
    words = [torch.zeros(1, dtype=torch.int32) for _ in range(3)]
    assert not at_least(masks).words(words).any()
