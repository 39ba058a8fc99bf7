"""A comparison that is split over processes is that of one, to the integer, with the same mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from monitor.analysis.diff.run import difference, split
from monitor.analysis.pairs import Pairs
from monitor.errors import SparsityMonitorError
from monitor.observe.criterion import Criterion
from monitor.observe.kernels.contract import Rules
from monitor.observe.ranks import Alone, Ranks, join_ranks
from tests.parallel.processes import run_together

_RULES = Rules(torch.bfloat16, Criterion(), (1e-5,))
_CPU = torch.device("cpu")


def _compare(directory: Path, mask: Path, ranks: Ranks) -> dict[str, Any]:
    pairs = Pairs.open(directory / "base.safetensors", directory / "tuned.safetensors")
    return difference(pairs, _RULES, ranks, mask=mask, device=_CPU).as_json()


def _compare_together(directory: Path, mask: Path) -> dict[str, Any] | str:
    try:
        return _compare(directory, mask, join_ranks(_CPU))
    except SparsityMonitorError as error:
        return str(error)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = (7, 900, 33, 0, 64, 1)
    base = {f"layers.{i}.w": torch.randn(size) for i, size in enumerate(sizes)}
    save_file(base, tmp_path / "base.safetensors")
    tuned = {name: w * torch.where(torch.rand(w.shape) < 0.5, 1.01, 1.0) for name, w in base.items()}
    save_file(tuned, tmp_path / "tuned.safetensors")
    return tmp_path


def test_every_process_gets_neighbours_and_each_parameter_is_in_one_share(checkpoints: Path) -> None:
    pairs = Pairs.open(checkpoints / "base.safetensors", checkpoints / "tuned.safetensors")
    for world in (1, 2, 3, 8):
        shares = split(pairs, world)
        assert len(shares) == world
        assert [name for names in shares for name in names] == list(pairs.names)


def test_split_over_processes_it_is_the_same_to_the_integer(checkpoints: Path) -> None:
    alone = _compare(checkpoints, checkpoints / "alone.safetensors", Alone())
    together = run_together(_compare_together, 2, checkpoints, checkpoints / "together.safetensors")
    assert together == [alone, alone]
    assert (checkpoints / "together.safetensors").read_bytes() == (checkpoints / "alone.safetensors").read_bytes()
    assert not list(checkpoints.glob(".*"))


def test_where_one_process_fails_all_end_and_nothing_is_left(checkpoints: Path) -> None:
    broken = checkpoints / "broken"
    broken.mkdir()
    for name in ("base.safetensors", "tuned.safetensors"):
        (broken / name).write_bytes((checkpoints / name).read_bytes())
    # Whole when it is opened; the second process reads the last parameters, which are gone then.
    results = run_together(_compare_what_is_cut, 2, broken, broken / "mask.safetensors")
    assert "the monitor failed on ranks [1]" in results[0]
    assert "cut short" in results[1]
    assert sorted(path.name for path in broken.iterdir()) == ["base.safetensors", "tuned.safetensors"]


def _compare_what_is_cut(directory: Path, mask: Path) -> str:
    ranks = join_ranks(_CPU)
    pairs = Pairs.open(directory / "base.safetensors", directory / "tuned.safetensors")
    ranks.raise_on_all(None)
    if ranks.rank == 0:
        with (directory / "tuned.safetensors").open("r+b") as file:
            file.truncate(file.seek(0, 2) - 8)
    ranks.raise_on_all(None)
    try:
        difference(pairs, _RULES, ranks, mask=mask, device=_CPU)
    except SparsityMonitorError as error:
        return str(error)
    return "nothing failed"
