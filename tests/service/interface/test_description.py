"""The OpenAPI description is what the service does: requests that are made up from it say so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from tests.service.messages import finished, logged, observed, registration
from tests.service.running import Client, service_in_thread

_REQUESTS = 8


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("described") / "store.db") as client:
        client.register(registration("grpo-20261127-a1b2"))
        client.send("grpo-20261127-a1b2", [observed(1), observed(2), logged(3, step=2, loss=1), finished(4, step=2)])
        yield client


@pytest.fixture
def description(described: Client) -> schemathesis.BaseSchema:
    address = f"http://{described.listening.http_address}/api/openapi.json"
    return schemathesis.openapi.from_url(address)


schema = schemathesis.pytest.from_fixture("description")


@schema.parametrize()
@settings(max_examples=_REQUESTS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_answers_are_as_described(case: schemathesis.Case) -> None:
    case.call_and_validate()
