"""What an engine serves, compared with a model that is spread over processes."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

import monitor
from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import join_ranks
from monitor.observe.served.slices import Slice
from monitor.training.asking import AskedEngine
from monitor.training.engine import EngineHere
from monitor.training.served_run import ServedRun
from tests.parallel.models import make_model, spread, train_step
from tests.parallel.processes import run_together
from tests.parallel.test_placement import snapshot

# Processes of their own, which one server forks.
pytestmark = pytest.mark.xdist_group("parallel")


def serve_together(directory: Path) -> dict[str, Any]:
    """Train two steps, of which the second does not reach the engine."""
    model = spread(make_model(), "fsdp2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    with monitor.watch(model, None, output_dir=directory) as watch:
        for step in (1, 2):
            train_step(model, optimizer, step)
            watch.step(step)
            trained = snapshot(model)
            if step == 1:
                engine = monitor.fingerprint(trained)
            # Only the first process knows what is served.
            found.append(watch.served(engine if dist.get_rank() == 0 else {}))
        wrong = watch.served("nothing" if dist.get_rank() == 0 else {})  # type: ignore[arg-type]
        kept = watch.fingerprint()
    own = monitor.fingerprint(model.named_parameters())
    return {"found": found, "wrong": wrong, "kept": kept, "own": own, "trained": trained}


def test_every_process_tells_the_same_of_the_whole_model(tmp_path: Path) -> None:
    first, second = run_together(serve_together, 2, tmp_path)
    assert first["found"] == second["found"]
    assert first["kept"] == second["kept"] == monitor.fingerprint(first["trained"])
    assert first["wrong"] is second["wrong"] is None
    fresh, stale = first["found"]
    assert (fresh.step, fresh.is_expected, fresh.only_trained, fresh.only_served) == (1, True, (), ())
    assert (stale.step, stale.expected_step) == (1, 2)
    # The shards that each process gives of its DTensors add up.
    assert {name: (first["own"][name] + second["own"][name]) % 2**64 for name in first["own"]} == first["kept"]


def ask_together(directory: Path) -> dict[str, Any]:
    """Train with an engine of two ranks, of which each process has one, as TRL's are: colocated.

    The steps are a trainer's: the engine gets the weights, generates, and the optimizer steps. In the last one, the
    second process's rank has kept what it had.
    """
    model = spread(make_model(), "fsdp2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ranks = join_ranks(torch.device("cpu"))
    observer = UpdateObserver(model, ranks=ranks)
    reported: list[tuple[int, dict[str, int]]] = []
    reporter: Any = SimpleNamespace(log=lambda step, numbers: reported.append((step, numbers)))
    run = ServedRun(observer, reporter, writes_log=True)
    llm = HalfEngine(ranks.rank)
    asked = AskedEngine(EngineHere(llm), every=1, processes=2, strict=True)
    for step in range(3):
        asked.begin_step(step, run)
        trained = snapshot(model)
        if not (step == 2 and ranks.rank == 1):
            llm.held = trained
        llm.generate()
        train_step(model, optimizer, step + 1)
        asked.end_step(run)
    return {"reported": reported, "texts": ranks.texts("ä" * (3 + 10 * ranks.rank))}


class HalfEngine:
    """Serves its process's share of each parameter, the rows of a half."""

    def __init__(self, rank: int) -> None:
        self.rank, self.held = rank, {}  # type: ignore[var-annotated]

    def generate(self) -> None:
        pass

    def collective_rpc(self, method: Any, args: Any = ()) -> list[dict[str, int]]:
        table, halves = {}, {}
        for name, whole in self.held.items():
            table[rf"^{re.escape(name)}$"] = [Slice(name, rank=self.rank, ranks=2, whole=len(whole))]
            # An odd number of rows is padded, as engines do with vocabularies.
            halves[name] = torch.cat([whole, torch.zeros_like(whole[: len(whole) % 2])]).chunk(2)[self.rank]
        return [monitor.fingerprint(halves, slices=table)]


def test_the_ranks_of_an_engine_that_processes_share_are_added_up(tmp_path: Path) -> None:
    first, second = run_together(ask_together, 2, tmp_path)
    assert first == second
    assert first["texts"] == ["ä" * 3, "ä" * 13]
    fresh, again, half = first["reported"]
    groups = fresh[1]["served_groups"]
    for step, found in enumerate((fresh, again)):
        assert found == (step, {"served_differing_groups": 0, "served_groups": groups, "served_step": step})
    # One has a single row, which is the first process's.
    assert half == (2, {"served_differing_groups": groups - 1, "served_groups": groups})
