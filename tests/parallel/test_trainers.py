"""The callback in parallel trainings: the counts are those of the weights that were saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monitor import DenseThresholds
from tests.counting import bfloat16_bits, changed_by_group
from tests.observe.masks.ordered import structural_bools
from tests.parallel.trainings import train_together
from tests.tiny import save_model

# Processes of their own, which one server forks.
pytestmark = pytest.mark.xdist_group("parallel")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def counts(compared: object) -> dict[tuple[str, str], int]:
    return {
        ("-" if group.layer is None else f"{group.layer:02d}", group.module): int(changed)
        for group, changed in zip(compared.groups, compared.changed, strict=True)
    }


def changed_in(text: str, base: Path, final: Path) -> int:
    """Count the changed weights within a structural mask, by numpy."""
    before, after = bfloat16_bits(base), bfloat16_bits(final)
    marked = {
        name: structural_bools(text, name, torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16))
        for name, bits in before.items()
    }
    return sum(int(((bits != after[name]) & marked[name]).sum()) for name, bits in before.items())


@pytest.mark.parametrize("how", ["ddp", "fsdp2", "zero1", "zero2", "zero3"])
def test_counts_are_those_of_the_saved_weights(how: str, model: Path, tmp_path: Path) -> None:
    if how.startswith("zero"):
        pytest.importorskip("deepspeed")
    structural = {"low magnitude": "lowest:0.1", "chance": "random:0.1"}
    callback = {"references": structural}
    results = train_together(2, how, str(model), str(tmp_path), save_steps=2, callback=callback)
    expected = changed_by_group(model, tmp_path / "final")
    assert sum(expected.values()) > 0
    overlaps = {name: changed_in(text, model, tmp_path / "final") for name, text in structural.items()}
    for result in results:
        assert counts(result["last"]) == counts(result["kept"]) == expected
        assert result["kept"].as_observed
        assert {name: result["last"].overlap(name).intersection for name in structural} == overlaps


def test_dense_updates_stop_every_process_at_the_same_step_with_a_checkpoint(model: Path, tmp_path: Path) -> None:
    thresholds = DenseThresholds(cumulative=0.9, step=0.0, warmup_steps=2)
    stop = {"on_dense": "stop", "dense_thresholds": thresholds}
    results = train_together(2, "ddp", str(model), str(tmp_path), max_steps=9, save_steps=100, callback=stop)
    (step,) = {result["step"] for result in results}
    assert step < 9
    assert (tmp_path / f"checkpoint-{step}" / "model.safetensors").exists()


def test_one_process_under_zero3_is_measured(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    (result,) = train_together(1, "zero3", str(model), str(tmp_path))
    expected = changed_by_group(model, tmp_path / "final")
    assert sum(expected.values()) > 0
    assert counts(result["last"]) == expected
