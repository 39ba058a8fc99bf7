"""The OpenAPI description is what the service does: requests that are made up from it say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from monitor.service.web.interface.models import PROBLEM, PROBLEMS
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


def _answers(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in description["paths"].items():
        if path.startswith("/api/v1/"):
            for status, answer in operations["get"]["responses"].items():
                yield path, status, answer


def test_every_answer_has_an_example_that_is_of_its_schema(described: Client) -> None:
    description = described.http.get("/api/openapi.json").json()
    checked = 0
    for path, status, answer in _answers(description):
        for media_type, content in answer.get("content", {}).items():
            schema = {**content["schema"], "components": description["components"]}
            # Nobody reads an example of Arrow's bytes.
            if schema.get("format") != "binary":
                jsonschema.Draft202012Validator(schema).validate(content["example"])
                assert content["example"], (path, status, media_type)
                checked += 1
    assert checked > 60


def test_every_error_is_described_as_a_problem_and_every_parameter_in_words(described: Client) -> None:
    description = described.http.get("/api/openapi.json").json()
    statuses: dict[str, set[str]] = {}
    for path, status, answer in _answers(description):
        statuses.setdefault(path, set()).add(status)
        assert list(answer.get("content", {})) == [PROBLEM] or status in {"200", "304"}
    of_all = {"200", *map(str, PROBLEMS)}
    of_one = {"/api/v1/runs/{run_id}/history": {"304", "406"}}
    assert statuses == {path: of_all | of_one.get(path, set()) for path in statuses}
    for path, operations in description["paths"].items():
        if path.startswith("/api/v1/"):
            for parameter in operations["get"]["parameters"]:
                assert parameter.get("description"), (path, parameter["name"])


def test_what_nobody_expected_is_a_problem_too(described: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> NoReturn:
        raise RuntimeError("a secret of the service")

    monkeypatch.setattr("monitor.service.web.interface.routes.run_json", broken)
    answer = described.http.get("/api/v1/runs")
    assert answer.headers["Content-Type"] == PROBLEM
    assert (answer.status_code, answer.json()["status"], answer.json()["title"]) == (500, 500, "Internal Server Error")
    assert answer.json()["detail"] == "the service failed at this; its log says where"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
