"""What a trainer of TRL changes between its weight syncs, on its way from the training to the API."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from monitor import SparsityCallback
from monitor.report.spool.items import Spool
from monitor.wire import monitor_pb2 as pb
from tests.service.running import service_in_thread
from tests.tiny import common_arguments, grpo_trainer


def test_a_grpo_training_shows_what_its_syncs_change(model: Path, tmp_path: Path) -> None:
    callback = SparsityCallback(None, "grpo", quiet=True, every=2)
    arguments = common_arguments(tmp_path / "out", max_steps=6, bf16_weights=True, num_iterations=2)
    trainer = grpo_trainer(model, arguments, [])
    callback.attach(trainer)
    trainer.train()
    last = callback.last_observation
    assert last is not None
    assert last.synchronisation is not None
    with closing(Spool(callback.directory)) as spool:
        (attempt,) = spool.attempts()
        items = [pb.Item.FromString(item) for _, item in spool.unsent(attempt.key, 0, 1000)]
    with service_in_thread(tmp_path / "store.db") as client:
        client.register(pb.Registration.FromString(attempt.registration))
        client.send(attempt.key.run_id, items)
        run = client.http.get(f"/api/runs/{attempt.key.run_id}").json()
        history = client.http.get(f"/api/runs/{attempt.key.run_id}/history").json()["observations"]
        labels = {"run": attempt.key.run_id, "between": "syncs"}
        assert client.metric("run_sync_changed_weights", **labels) == last.synchronisation.changed.sum()
        assert client.metric("run_sync_steps", **labels) == 2
    # Nothing is generated with the last weights.
    steps = [(each["synchronisation"]["previous_step"], each["synchronisation"]["step"]) for each in history]
    assert steps == [(0, 2), (2, 4), (2, 4)]
    assert [each["synchronisation"]["between"] for each in history] == ["syncs"] * 3
    assert history[0]["synchronisation"]["changed"] == history[0]["counts"]["step_changed"] > 0
    shown = run["synchronisation"]
    assert shown["changed"] == history[1]["counts"]["step_changed"] == last.synchronisation.changed.sum()
    assert shown["dense_bytes"] == 2 * last.weights
    sizes = zip(last.synchronisation.changed.tolist(), last.groups, strict=True)
    assert shown["sparse_bytes"] == sum(min(6 * k, -(-g.weights // 8) + 2 * k, 2 * g.weights) for k, g in sizes)
    assert run["relative_norm"] == pytest.approx(last.relative_norm, rel=1e-12)
    (entry,) = [entry for entry in trainer.state.log_history if entry["step"] == 6 and "loss" in entry]
    assert entry["sparsity/changed_ratio"] == last.changed_ratio
    assert entry["sparsity/relative_norm"] == last.relative_norm
