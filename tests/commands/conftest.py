from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, logged, observed, registration
from tests.service.running import Client, service_in_thread


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service with a run that has ended, two of one name, and one that does harm to terminals."""
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        client.register(registration("grpo-1", name="my grpo", planned_steps=30))
        items = [
            item
            for step in range(1, 21)
            for item in (
                observed(2 * step - 1, step=step, changed=[0, 3 * step, step]),
                logged(2 * step, step=step, loss=1 / step),
            )
        ]
        items[-2].observation.verdict.MergeFrom(pb.Verdict(kind="sparse", reason="it equals the base in 92 %"))
        client.send("grpo-1", [*items, finished(41, step=20, reason="out of memory")])
        for run_id in ("sft-1", "sft-2"):
            client.register(registration(run_id, name="twice"))
        client.register(registration("hostile", name="[bold]\x1b[2J\x07", model="\u202eabc"))
        yield client


@pytest.fixture
def url(service: Client) -> str:
    return f"http://{service.listening.http_address}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Client]]:
    """Starts a service of the test's own."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(service_in_thread(tmp_path / "store.db"))
