"""What the service shows of trainings that end in each of the known ways, and that they end as without the monitor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.eventually import eventually
from tests.processes import Processes
from tests.service.running import Client, service_in_thread
from tests.tiny import save_model
from tests.training.endings import ENDINGS, Case

# One process imports what trainings need.
pytestmark = pytest.mark.xdist_group("training processes")

PRELUDE = """
import os, signal, sys, threading, time
from contextlib import suppress
from monitor import DenseThresholds
from monitor.report.spool.items import Spool
from monitor.training.under_way import under_way
from tests.eventually import eventually
from tests.processes import Processes
from tests.training.trained import *
RUN = os.environ["RUN"]
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model")))


def shown(client: Client, run_id: str) -> dict[str, Any]:
    """What the service shows of a run that has ended."""
    answered = {}

    def has_ended() -> bool:
        response = client.http.get(f"/api/runs/{run_id}")
        answered.update(response.json() if response.status_code == 200 else {})
        return answered.get("state", "running") != "running"

    eventually(has_ended)
    return answered


CASES = [
    pytest.param(ending.state, case, id=f"{ending.way.split('`')[0].strip() or ending.reason}: {name}")
    for ending in ENDINGS
    for name, case in ending.cases.items()
]


@pytest.mark.parametrize(("state", "case"), CASES)
def test_a_training_that_ends_is_shown_as_it_ended(
    state: str, case: Case, client: Client, processes: Processes, model: str, request: pytest.FixtureRequest
) -> None:
    run_id = f"run-{request.node.callspec.indices['case']}"
    named = {"RUN": run_id, "TARGET": client.listening.grpc_address, "MODEL": model}
    ended = processes.run(PRELUDE + case.code, **named, **case.environment)
    assert ended.status == case.status, ended.written
    run = shown(client, run_id)
    assert run["state"] == state, (run["reason"], ended.written)
    assert re.match(f"{case.reason}$" if not case.reason else case.reason, run["reason"]), run["reason"]
    if case.step is not None:
        assert run["step"] == case.step
    assert run["planned_steps"] >= run["step"]


def test_a_process_that_the_monitor_does_not_see_is_one_of_ours(processes: Processes) -> None:
    ended = processes.run("print('hello')")
    # A library says at its end what the search for garbage has left alone.
    assert (ended.status, ended.written.partition("nanobind")[0]) == (0, "hello\n")
