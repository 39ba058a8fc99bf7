"""What the service keeps of runs that switch `requires_grad`: all of it, whatever was registered when they started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import Trainer

from monitor import SparsityCallback
from tests.eventually import eventually
from tests.matrix.models import dense
from tests.matrix.test_requires_grad import FIRST_LAYER, Switch, make_trainer, without_first_layer
from tests.service.running import Client, service_in_thread


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with service_in_thread(tmp_path / "store.db") as client:
        yield client


def stored_steps(client: Client, callback: SparsityCallback) -> list[tuple[int, int]]:
    """(attempt, step) of each observation, once the run is over."""
    assert callback.run_id is not None
    run_id = callback.run_id
    eventually(lambda: client.is_over(run_id))
    stored = client.history(run_id)
    return [(each.attempt, each.item.observation.step) for each in stored if each.item.HasField("observation")]


def test_overlap_with_a_layer_that_was_frozen_at_first_is_stored(client: Client, tmp_path: Path) -> None:
    make_trainer(dense(), tmp_path / "earlier", [SparsityCallback(None, "earlier")]).train()
    mask = tmp_path / "earlier" / "sparsity_monitor" / "update_mask.safetensors"
    callback = SparsityCallback(client.listening.grpc_address, "thawed", references={"earlier": mask})
    make_trainer(without_first_layer(), tmp_path / "out", [Switch("on_step_begin", 2, trains=True), callback]).train()
    assert stored_steps(client, callback) == [(1, step) for step in (1, 2, 3, 4)]
    observation = callback.last_observation
    assert observation is not None
    overlap = observation.references["earlier"]
    in_first_layer = [position for position, group in enumerate(observation.groups) if group.layer == 0]
    assert overlap.intersection[in_first_layer].sum() > 0
    registered = client.run(callback.run_id or "").registration.references[0].weights
    assert list(registered) == overlap.weights.tolist()


def test_a_run_that_is_resumed_after_a_layer_was_switched_on_is_stored(client: Client, tmp_path: Path) -> None:
    without_first_layer().save_pretrained(tmp_path / "model")
    checkpoint = tmp_path / "out" / "checkpoint-4"

    def trainer(callback: SparsityCallback, switched_at: int, max_steps: int) -> Trainer:
        model = type(dense()).from_pretrained(tmp_path / "model")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(FIRST_LAYER))
        switch = Switch("on_step_begin", switched_at, trains=True)
        saving = {"save_strategy": "steps", "save_steps": 2}
        return make_trainer(model, tmp_path / "out", [switch, callback], max_steps=max_steps, **saving)

    target = client.listening.grpc_address
    first, second = SparsityCallback(target, "resumed"), SparsityCallback(target, "resumed")
    trainer(first, switched_at=1, max_steps=4).train()
    # An optimizer cannot be resumed with other parameters than it was saved with.
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "scheduler.pt").unlink()
    trainer(second, switched_at=5, max_steps=6).train(resume_from_checkpoint=str(checkpoint))
    assert second.run_id == first.run_id
    # Both are in the store: the second is registered once the first is delivered.
    run_id = first.run_id or ""
    eventually(lambda: client.is_over(run_id) and client.run(run_id).registration.attempt == 2)
    assert stored_steps(client, second) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (2, 6)]
