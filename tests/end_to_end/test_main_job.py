"""The whole way of the data: a TRL training on one side, a PromQL query on the other, the same integers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from monitor import SparsityCallback
from tests.counting import changed_by_group
from tests.end_to_end.prometheus import Prometheus
from tests.end_to_end.reported_run import reporting
from tests.eventually import eventually
from tests.service.running import ServiceProcess
from tests.tiny import TRAINERS, common_arguments, sft_trainer

# They share a service and a Prometheus.
pytestmark = pytest.mark.xdist_group("main job")

# One that imitates, one that prefers, one that explores; tests/matrix goes through all trainers.
TYPICAL = ["dpo", "grpo", "sft"]


@pytest.mark.parametrize("bf16_weights", [False, True], ids=["float32-master", "pure-bfloat16"])
@pytest.mark.parametrize("trainer_name", TYPICAL)
def test_prometheus_holds_the_counts_of_the_saved_weights(
    trainer_name: str,
    bf16_weights: bool,
    model: Path,
    service: ServiceProcess,
    prometheus: Prometheus,
    tmp_path: Path,
) -> None:
    name = f"{trainer_name}-{'bf16' if bf16_weights else 'fp32'}"
    callback = SparsityCallback(service.client.listening.grpc_address, name)
    arguments = common_arguments(tmp_path, bf16_weights=bf16_weights)
    trainer = TRAINERS[trainer_name](model, arguments, [callback])
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))

    expected = changed_by_group(model, tmp_path / "final")
    total = sum(expected.values())
    assert total > 0, "a training that changes nothing proves nothing"
    selector = f'{{run="{callback.run_id}"}}'
    eventually(lambda: [step for _, step in prometheus.query(f"sparsity_monitor_run_step{selector}")] == [4.0])
    # A scrape that takes longer than its interval fails, and for that long nothing is known of any run.
    changed = f"sparsity_monitor_group_changed_weights{selector}"
    eventually(lambda: prometheus.query(changed) != [])
    found = prometheus.query(changed)
    assert {(labels["layer"], labels["module"]): int(value) for labels, value in found} == expected
    eventually(lambda: prometheus.query(f"sum by (run) ({changed})") == [({"run": callback.run_id}, float(total))])


@pytest.mark.parametrize("trainer_name", TYPICAL)
@pytest.mark.parametrize("bf16_weights", [False, True], ids=["float32-master", "pure-bfloat16"])
def test_training_is_the_same_bit_for_bit_without_the_monitor(
    trainer_name: str, bf16_weights: bool, model: Path, service: ServiceProcess, tmp_path: Path
) -> None:
    def train(callbacks: list[TrainerCallback]) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
        arguments = common_arguments(tmp_path, bf16_weights=bf16_weights)
        trainer = TRAINERS[trainer_name](model, arguments, callbacks)
        trainer.train()
        timings = ("_runtime", "_per_second", "step_time", "time")
        logs = [
            {key: value for key, value in entry.items() if not key.endswith(timings)}
            for entry in trainer.state.log_history
        ]
        return logs, dict(trainer.model.state_dict())

    logs, weights = train([])
    callback = SparsityCallback(service.client.listening.grpc_address, "same", tolerances=[1e-5])
    monitored_logs, monitored_weights = train([callback])
    assert callback.last_observation is not None
    assert callback.last_observation.step == 4
    assert any("loss" in entry for entry in logs)
    assert repr(monitored_logs) == repr(logs)
    assert all(torch.equal(weights[name], monitored_weights[name]) for name in weights)


class AtSteps(TrainerCallback):
    """Does something at given steps of a training."""

    def __init__(self, **actions: object) -> None:
        self.actions = {int(name.removeprefix("step_")): action for name, action in actions.items()}

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        action = self.actions.get(state.global_step)
        if action:
            action()


def test_a_service_killed_in_the_middle_has_every_observation_once(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    services = [ServiceProcess(store)]
    address = services[0].client.listening.grpc_address
    callback = SparsityCallback(address, "survivor")

    def some_are_stored() -> None:
        eventually(lambda: services[0].client.metric("run_step", run=callback.run_id) is not None)

    def kill() -> None:
        services[0].process.kill()
        services[0].process.wait(timeout=30)

    def restart() -> None:
        services.append(ServiceProcess(store, "--grpc-address", address))

    arguments = common_arguments(tmp_path / "out", max_steps=12)
    trainer = sft_trainer(model, arguments, [callback, AtSteps(step_3=some_are_stored, step_4=kill, step_8=restart)])
    trainer.train()
    client = services[1].client
    # Until then an uploader has something to deliver, and would look for the service after its end.
    eventually(lambda: client.is_over(callback.run_id))
    assert client.run(callback.run_id).observations == 12
    history = client.history(callback.run_id)
    assert [entry.item.observation.step for entry in history if entry.item.HasField("observation")] == [*range(1, 13)]
    sequences = [entry.item.sequence for entry in history]
    assert sorted(sequences) == [*range(1, len(sequences) + 1)]
    for service in services:
        service.close()


def test_promtool_accepts_the_metrics(service: ServiceProcess, prometheus: Prometheus) -> None:
    with reporting(service.client, "checked") as run:
        eventually(lambda: service.client.metric("run_step", run=run.run_id) is not None)
        metrics = service.client.http.get("/metrics").text
    assert "sparsity_monitor_group_changed_weights{" in metrics
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
