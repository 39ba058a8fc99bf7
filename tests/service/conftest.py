from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Nursery
from tests.service.messages import new_run_id
from tests.service.postgresql import Cluster, running_cluster
from tests.service.running import Client, ServiceProcess, service_in_thread


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a service that all tests with default settings share."""
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Starts a service with settings of the test's own."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(service_in_thread(tmp_path / "store.db", **settings))


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Forks processes that are the command."""
    with Nursery("monitor.service.server") as nursery:
        yield nursery


@pytest.fixture
def spawn(tmp_path: Path, nursery: Nursery) -> Iterator[Callable[..., ServiceProcess]]:
    """Starts services in processes of their own, on the same store each time."""
    with ExitStack() as stack:

        def start(*options: str, store: Path | str = tmp_path / "store.db", **popen: Any) -> ServiceProcess:
            process = ServiceProcess(store, *options, nursery=nursery, **popen)
            stack.callback(process.close)
            return process

        yield start


@pytest.fixture
def run_id() -> str:
    return new_run_id()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


# What needs PostgreSQL goes to one worker, which starts it once.
@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.new_database()
