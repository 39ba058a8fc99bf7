from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from monitor import SparsityCallback
from monitor.report.push import push
from tests.service.running import Client, service_in_thread
from tests.tiny import common_arguments, plain_trainer, save_model

STEPS = 4


@dataclass(frozen=True)
class Trained:
    """A real training, which kept what it observed, and a service to which a copy of that was delivered.

    Attributes:
        output: the training's output directory; its spool is whole.
        delivered: a copy of it, of which the service has everything.
    """

    callback: SparsityCallback
    output: Path
    delivered: Path
    client: Client

    @property
    def run_id(self) -> str:
        run_id = self.callback.run_id
        assert run_id is not None
        return run_id

    @property
    def url(self) -> str:
        return f"http://{self.client.listening.http_address}"


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    scratch = tmp_path_factory.mktemp("trained")
    callback = SparsityCallback(
        None, "tiny <b>", labels={"seed": "0"}, references={"lowest": "lowest:0.25"}, tolerances=[1e-5]
    )
    arguments = common_arguments(scratch / "output", bf16_weights=True, learning_rate=1e-3, max_steps=STEPS)
    plain_trainer(save_model(scratch / "model"), arguments, [callback]).train()
    shutil.copytree(scratch / "output", scratch / "delivered")
    with service_in_thread(scratch / "store.db") as client:
        push(scratch / "delivered", client.listening.grpc_address, patience_seconds=60)
        yield Trained(callback, scratch / "output", scratch / "delivered", client)
