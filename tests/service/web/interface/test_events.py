"""Server-sent events: a run's page is told of what is new, and nothing keeps the service from its end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.service.messages import observed, registration
from tests.service.running import Client, ServiceProcess


def data(lines: Iterator[str]) -> str:
    """The data of the next event."""
    return next(line for line in lines if line.startswith("data: "))


def test_an_event_comes_with_each_observation(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    with client.http.stream("GET", f"/api/v1/runs/{run_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.iter_lines()
        first = data(lines)
        client.send(run_id, [observed(1)])
        assert data(lines) != first


def test_events_end_when_the_service_does(spawn: Callable[..., ServiceProcess]) -> None:
    service = spawn()
    service.client.register(registration())
    with service.client.http.stream("GET", "/api/v1/runs/run/events") as answer:
        lines = answer.iter_lines()
        data(lines)
        assert service.signal(signal.SIGTERM) == 0
        # In order: the answer is whole.
        assert not [line for line in lines if line]


def test_no_more_pages_watch_than_the_service_bears(
    start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.service.web.interface.events.MAX_WATCHERS", 1)
    client = start()
    client.register(registration())
    path = "/api/v1/runs/run/events"
    with client.http.stream("GET", path) as first:
        lines = first.iter_lines()
        data(lines)
        refused = client.http.get(path)
        assert refused.status_code == 503
        assert "1 pages are watching already" in refused.json()["detail"]


def test_events_of_an_unknown_run_are_refused(client: Client) -> None:
    assert client.http.get("/api/v1/runs/none/events").status_code == 404


def test_head_ends_where_the_events_do_not(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    for path in ("/api/v1/events", f"/api/v1/runs/{run_id}/events"):
        answer = client.http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")


def test_an_event_comes_with_each_new_run_and_each_observation_of_any(client: Client, run_id: str) -> None:
    with client.http.stream("GET", "/api/v1/events") as answer:
        lines = answer.iter_lines()
        first = data(lines)
        client.register(registration(run_id))
        second = data(lines)
        assert second != first
        client.send(run_id, [observed(1)])
        assert data(lines) != second
