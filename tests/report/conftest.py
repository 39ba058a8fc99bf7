from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.processes import Processes
from tests.report.attempts import ObservedModel, Trainings, uploaders_in
from tests.service.running import Client, service_in_thread

_ENDING_SECONDS = 20.0


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


@pytest.fixture(autouse=True)
def _uploaders_end(tmp_path: Path) -> Iterator[None]:
    """Fail where a test leaves an uploader that goes on trying, for ten minutes beside all that come after it."""
    yield
    try:
        # Those that have delivered everything are on their way.
        eventually(lambda: not uploaders_in(tmp_path), seconds=_ENDING_SECONDS)
    finally:
        for pid in uploaders_in(tmp_path):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def observed() -> ObservedModel:
    return ObservedModel()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a test's spool is kept."""
    return tmp_path / "sparsity_monitor"
