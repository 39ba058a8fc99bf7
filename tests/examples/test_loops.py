"""The loops that are no HF Trainer's: what each reports is what it trained."""

from __future__ import annotations

from pathlib import Path

import accelerate_loop
import lightning_callback
import plain_loop
import pytest
from lightning_callback import LightningCallback
from toy_command import Command

from monitor.wire import monitor_pb2 as pb
from tests.counting import changed_by_group
from tests.eventually import eventually
from tests.examples.arrivals import assert_the_run_arrived, logged
from tests.service.running import Client
from tests.tiny import TEXTS

STEPS = 3
QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_loop, "BATCH", 2)


def command(model: Path, output: Path, client: Client, steps: int = STEPS) -> Command:
    return Command(model, client.listening.grpc_address, output, steps, seed=0)


def test_a_plain_loop_goes_on_from_its_checkpoint_as_the_same_run(model: Path, tmp_path: Path, client: Client) -> None:
    first = plain_loop.Recipe(command(model, tmp_path, client, 2)).train(TEXTS)
    second = plain_loop.Recipe(command(model, tmp_path, client, STEPS)).train(TEXTS)
    assert first.run_id == second.run_id
    assert second.run_id is not None
    assert first.last_observation is not None
    assert second.last_observation is not None
    # Its first step is compared with the checkpoint's weights, and what they had touched is known.
    assert second.last_observation.stride == 1
    assert second.last_observation.touched.sum() >= first.last_observation.touched.sum()
    run_id = second.run_id
    eventually(lambda: client.run(run_id).last_step == STEPS and client.is_over(run_id))
    items = [entry.item for entry in client.history(run_id)]
    assert [item.observation.step for item in items if item.HasField("observation")] == [1, 2, 3]
    assert int(second.last_observation.changed.sum()) == sum(changed_by_group(model, tmp_path / "final").values())
    assert {item["loss"] > 0 for item in logged(client, run_id)} == {True}


def test_a_loop_of_accelerate_reports_what_it_trained(model: Path, tmp_path: Path, client: Client) -> None:
    watch = accelerate_loop.train(command(model, tmp_path, client), TEXTS)
    assert watch.run_id is not None
    assert_the_run_arrived(client, watch.run_id, model, tmp_path / "final", STEPS)


def test_a_training_of_lightning_reports_what_it_trained(model: Path, tmp_path: Path, client: Client) -> None:
    callback = LightningCallback(client.listening.grpc_address)
    lightning_callback.train(command(model, tmp_path, client), TEXTS, callback, accumulate_grad_batches=2, **QUIET)
    assert callback.watch is not None
    assert callback.watch.run_id is not None
    assert_the_run_arrived(client, callback.watch.run_id, model, tmp_path / "final", STEPS)
    assert all("loss" in log for log in logged(client, callback.watch.run_id))


def raises(*_: object) -> None:
    raise RuntimeError("out of memory")


def test_a_training_of_lightning_that_raises_has_failed(
    model: Path, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = LightningCallback(client.listening.grpc_address)
    monkeypatch.setattr(lightning_callback.LanguageModel, "training_step", raises)
    with pytest.raises(RuntimeError, match="out of memory"):
        lightning_callback.train(command(model, tmp_path, client), TEXTS, callback, **QUIET)
    assert callback.watch is not None
    run_id = callback.watch.run_id
    assert run_id is not None
    eventually(lambda: client.is_over(run_id))
    assert client.run(run_id).reason == "RuntimeError: out of memory"


def test_a_training_of_lightning_goes_on_from_its_checkpoint(model: Path, tmp_path: Path, client: Client) -> None:
    """The checkpoint names the folder in which the run has left its state."""
    callback = LightningCallback(client.listening.grpc_address)
    given = command(model, tmp_path, client)
    module = lightning_callback.train(given, TEXTS, callback, **QUIET)
    assert callback.watch is not None
    run_id = callback.watch.run_id
    assert run_id is not None
    eventually(lambda: client.is_over(run_id))
    checkpoint: dict[str, object] = {"global_step": STEPS}
    callback.on_save_checkpoint(module.trainer, module, checkpoint)
    again = LightningCallback(None)
    again.on_load_checkpoint(module.trainer, module, checkpoint)
    again.on_train_start(module.trainer, module)
    assert again.watch is not None
    assert again.watch.run_id == run_id
    again.on_train_end()
    assert client.run(run_id).state == pb.RunSummary.STATE_FINISHED
