from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.prometheus import Prometheus, running_prometheus
from tests.service.running import ServiceProcess
from tests.tiny import save_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny pretrained model and its tokenizer."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The command `sparsity-monitor serve` in a process of its own."""
    process = ServiceProcess(tmp_path_factory.mktemp("store") / "store.db")
    yield process
    process.close()


@pytest.fixture(scope="module")
def prometheus(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real Prometheus that scrapes the service."""
    directory = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(directory, service.client.listening.http_address) as prometheus:
        yield prometheus
