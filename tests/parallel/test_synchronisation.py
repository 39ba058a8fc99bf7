"""What weight syncs change where the model is spread over processes."""

from __future__ import annotations

from typing import Any

import torch

from monitor.observe.observer import UpdateObserver
from monitor.training.synchronisation import Schedule, Synchronisations
from tests.parallel.models import make_model, spread, train_step
from tests.parallel.processes import run_together
from tests.parallel.test_placement import snapshot


def follow_syncs() -> dict[str, Any]:
    """Hand the weights over after every second step, of two batches each, and observe them there."""
    model = spread(make_model(), "fsdp2")
    observer = UpdateObserver(model)
    syncs = Synchronisations(Schedule(4, batches_per_step=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    weights, told = [snapshot(model)], {}
    for step in range(1, 7):
        train_step(model, optimizer, step)
        weights.append(snapshot(model))
        syncs.end_batch()
        syncs.end_step(step, ends=step == 6)
        if step % 2 == 0:
            syncs.start(step)
            sync = syncs.see(observer.observe(step)).synchronisation
            told[step] = sync and (sync.previous_step, sync.step, sync.changed.tolist())
    return {"told": told, "weights": weights, "groups": len(observer.groups)}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> int:
    pairs = ((before[name].to(torch.bfloat16), after[name].to(torch.bfloat16)) for name in before)
    return sum(int((one != other).sum()) for one, other in pairs)


def test_every_process_tells_the_sync_of_the_whole_model() -> None:
    first, second = run_together(follow_syncs, 2)
    assert first["told"] == second["told"]
    told, weights = first["told"], first["weights"]
    assert [sync[:2] for sync in told.values()] == [(0, 2), (2, 4), (2, 4)]
    for previous, step, counts in told.values():
        assert len(counts) == first["groups"]
        assert sum(counts) == changed(weights[previous], weights[step]) > 0
