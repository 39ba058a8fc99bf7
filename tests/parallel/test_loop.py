from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import monitor
from tests.parallel.models import make_model, spread, train_step
from tests.parallel.processes import run_together
from tests.parallel.test_placement import snapshot

# Processes of their own, which one server forks.
pytestmark = pytest.mark.xdist_group("parallel")

COUNTS = ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden")


def watch_together(how: str, directory: Path) -> dict[str, Any]:
    """Train two steps, save, and go on from there, as in another process."""
    whole = make_model().state_dict()
    model = spread(make_model(), how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    weights = [snapshot(model)]
    with monitor.watch(model, None, output_dir=directory, strict=True) as first:
        for step in (1, 2):
            train_step(model, optimizer, step)
            first.step(step)
            weights.append(snapshot(model))
        first.save(directory / "checkpoint")
    settings: dict[str, Any] = {"output_dir": directory, "resume_from": directory / "checkpoint", "base": whole}
    with monitor.watch(model, None, strict=True, **settings) as second:
        train_step(model, optimizer, 3)
        stops = second.step(3)
        weights.append(snapshot(model))
    assert second.last_observation is not None
    # On these only, as where the others generate.
    group = dist.new_group([1])
    if dist.get_rank() == 1:
        actor = make_model()
        with monitor.watch(actor, None, output_dir=directory / "actor", process_group=group, strict=True) as alone:
            torch.nn.init.ones_(actor.score.weight)
            alone.step(1)
        assert alone.run_id is not None
        assert alone.last_observation is not None
        assert alone.last_observation.changed.sum() == actor.score.weight.numel()
    return {
        "counts": {name: getattr(second.last_observation, name).tolist() for name in COUNTS},
        "run": (first.run_id, second.run_id),
        "stops": stops,
        "weights": weights,
    }


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_a_loop_on_two_processes_has_the_counts_of_one(how: str, tmp_path: Path) -> None:
    results = run_together(watch_together, 2, how, tmp_path)
    model = make_model()
    observer = monitor.UpdateObserver(model)
    for step, now in enumerate(results[0]["weights"][1:], start=1):
        model.load_state_dict(now)
        expected = observer.observe(step)
    assert expected.changed.sum() > 0
    for result in results:
        assert result["counts"] == {name: getattr(expected, name).tolist() for name in COUNTS}
        assert result["stops"] is False
    (first, second), others = results[0]["run"], results[1]["run"]
    assert first == second is not None
    # The first one reports.
    assert others == (None, None)
