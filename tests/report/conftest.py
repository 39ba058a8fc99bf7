from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Processes
from tests.report.attempts import ObservedModel, Trainings
from tests.service.running import Client, service_in_thread


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a real service that the tests share."""
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """Runs trainings; one process imports what they need, so its tests are one group."""
    with Processes(tmp_path_factory.mktemp("processes"), "tests.report.attempts") as processes:
        yield Trainings(processes)


@pytest.fixture
def observed() -> ObservedModel:
    return ObservedModel()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a test's spool is kept."""
    return tmp_path / "sparsity_monitor"
