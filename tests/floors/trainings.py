"""One training that imitates and one that explores, with the service beside them; run inside each environment."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from trl import GRPOConfig, SFTConfig

from monitor import SparsityCallback
from tests.counting import changed_by_group
from tests.eventually import eventually
from tests.service.running import ServiceProcess
from tests.tiny import TRAINERS, common_arguments, save_model


@pytest.mark.parametrize(("trainer_name", "configuration"), [("sft", SFTConfig), ("grpo", GRPOConfig)])
def test_the_service_answers_with_the_counts_of_the_saved_weights(
    trainer_name: str, configuration: type, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model")
    service = ServiceProcess(tmp_path / "store.db")
    try:
        callback = SparsityCallback(service.client.listening.grpc_address, trainer_name, strict=True)
        known = {field.name for field in fields(configuration)}
        arguments = common_arguments(tmp_path / "out", max_steps=2, bf16_weights=True)
        arguments = {name: value for name, value in arguments.items() if name in known}
        trainer = TRAINERS[trainer_name](model, arguments, [callback])
        trainer.train()
        trainer.save_model(str(tmp_path / "final"))
        eventually(lambda: service.client.is_over(callback.run_id))
        groups = service.client.http.get(f"/api/runs/{callback.run_id}").json()["groups"]
    finally:
        service.close()
    expected = changed_by_group(model, tmp_path / "final")
    assert sum(expected.values()) > 0, "a training that changes nothing proves nothing"
    assert {(group["label"], group["module"]): group["counts"]["changed"] for group in groups} == expected
