from __future__ import annotations

import gzip
import html
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.service.messages import finished, logged, observed, registration, stacked_groups
from tests.service.running import Client


@pytest.fixture
def seen(client: Client, run_id: str) -> Client:
    """A service that knows a run with one observation and a log."""
    client.register(registration(run_id))
    client.send(run_id, [observed(1), logged(2, loss=float("nan"), reward=2)])
    return client


def test_a_live_service_says_so(client: Client) -> None:
    assert client.http.get("/healthz").status_code == 200
    assert client.http.get("/readyz").json() == {"status": "ready"}


def test_metrics_come_as_prometheus_text_by_default(seen: Client) -> None:
    response = seen.http.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nsparsity_monitor_run_changed_weights{" in response.text


def test_metrics_come_as_openmetrics_where_that_is_asked_for(seen: Client, run_id: str) -> None:
    response = seen.http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert response.text.endswith("# EOF\n")
    metrics = {metric.name: metric for metric in text_string_to_metric_families(response.text)}  # type: ignore[no-untyped-call]
    changed = metrics["sparsity_monitor_run_changed_weights"]
    assert [sample.value for sample in changed.samples if sample.labels["run"] == run_id] == [50]


def test_runs_are_listed_with_both_sparsities_and_how_they_were_measured(seen: Client, run_id: str) -> None:
    run = next(run for run in seen.http.get("/api/runs").json()["runs"] if run["run_id"] == run_id)
    assert run["cumulative_sparsity"] == pytest.approx(1 - 50 / 1000)
    assert run["whole_model_cumulative_sparsity"] == pytest.approx(1 - 50 / 2000)
    assert run["step_sparsity"] == pytest.approx(1 - 10 / 1000)
    assert run["trained_weights"] == 1000
    assert (run["criterion"], run["visible_dtype"]) == ("bits", "bfloat16")
    assert (run["state"], run["step"], run["attempt"], run["weights"]) == ("running", 1, 1, 2000)
    assert run["labels"] == {"algorithm": "grpo", "seed": "1"}
    assert "sparsity" not in run


def test_a_run_is_shown_with_its_groups(seen: Client, run_id: str) -> None:
    run = seen.http.get(f"/api/runs/{run_id}").json()
    assert run["counts"]["changed"] == 50
    assert run["update_norm"] == pytest.approx(5)
    embedding, _first, last = run["groups"]
    assert (embedding["layer"], embedding["label"], embedding["cumulative_sparsity"]) == (None, "-", None)
    assert (embedding["weights"], embedding["frozen_weights"], embedding["trained_weights"]) == (1000, 1000, 0)
    assert (last["layer"], last["label"], last["module"]) == (1, "01", "mlp")
    assert last["counts"]["changed"] == 20
    assert last["cumulative_sparsity"] == pytest.approx(0.95)
    assert last["step_sparsity"] == pytest.approx(0.99)
    assert last["references"] == [
        {"name": "other seed", "weights": 40, "intersection": 6, "expected_intersection": 2.0}
    ]
    assert [at["cumulative_sparsity"] for at in run["at_tolerances"]] == [0.98, 0.998]


def test_a_layer_is_shown_with_its_stack(client: Client, run_id: str) -> None:
    client.register(registration(run_id, groups=stacked_groups()))
    shown = client.http.get(f"/api/runs/{run_id}").json()["groups"]
    assert [(group["stack"], group["layer"], group["label"]) for group in shown] == [
        ("", None, "-"),
        ("encoder", 0, "encoder 00"),
        ("decoder", 0, "decoder 00"),
    ]


@pytest.mark.parametrize("beyond_json", [math.nan, math.inf, -math.inf])
def test_a_metric_that_json_cannot_say_is_null(client: Client, run_id: str, beyond_json: float) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1), logged(2, loss=beyond_json, reward=2)])
    assert _strictly(client, f"/api/runs/{run_id}")["training_metrics"] == {"loss": None, "reward": 2}


def test_a_sum_beyond_float64_is_null(client: Client, run_id: str) -> None:
    """Each amount is finite, as the service demands; what they add up to need not be."""
    client.register(registration(run_id))
    overlap = pb.ReferenceCounts(intersection=[1, 2, 3], expected_intersection=[1e308] * 3)
    client.send(run_id, [observed(1, squared_norm=[1e308] * 3, references=[overlap])])
    detail = _strictly(client, f"/api/runs/{run_id}")
    (past,) = _strictly(client, f"/api/runs/{run_id}/history")["observations"]
    for shown in (detail, past):
        assert shown["update_norm"] is None
        assert shown["references"][0]["expected_intersection"] is None
    assert detail["groups"][0]["references"][0]["expected_intersection"] == 1e308
    assert client.http.get(f"/runs/{run_id}").status_code == 200


def test_the_schema_says_which_numbers_may_be_null(client: Client) -> None:
    schemas = client.http.get("/api/openapi.json").json()["components"]["schemas"]
    metrics = schemas["RunDetailJson"]["properties"]["training_metrics"]
    assert {"type": "null"} in metrics["additionalProperties"]["anyOf"]


def _strictly(client: Client, path: str) -> dict[str, Any]:
    """Return the JSON of an answer, as parsers read it that take no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    answer = client.http.get(path)
    assert answer.status_code == 200
    return json.loads(answer.text, parse_constant=refuse)  # type: ignore[no-any-return]


def test_what_was_not_measured_is_null(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    run = client.http.get(f"/api/runs/{run_id}").json()
    assert run["cumulative_sparsity"] is None
    assert run["counts"]["changed"] is None
    assert run["last_observed_at"] is None
    client.send(run_id, [pb.Item(sequence=1, observation=pb.Observation(step=1, changed=[0, 2, 3]))])
    run = client.http.get(f"/api/runs/{run_id}").json()
    assert run["cumulative_sparsity"] == 1 - 5 / 1000
    assert run["step_sparsity"] is None
    assert run["groups"][1]["step_sparsity"] is None


def test_history_holds_the_totals_of_each_observation(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1, step=10), logged(2, step=10, loss=1), observed(3, step=20)])
    client.register(registration(run_id, 2, resumed_from_step=10, references=[], tolerances=[]))
    later = observed(1, step=20, references=[], changed_at=[], changed=[0, 60, 40])
    client.send(run_id, [later, finished(2)], attempt=2)
    history = client.http.get(f"/api/runs/{run_id}/history").json()
    assert (history["criterion"], history["visible_dtype"], history["weights"]) == ("bits", "bfloat16", 2000)
    assert [(each["step"], each["attempt"]) for each in history["observations"]] == [(10, 1), (20, 2)]
    assert [each["cumulative_sparsity"] for each in history["observations"]] == [0.95, 0.9]
    assert [each["whole_model_cumulative_sparsity"] for each in history["observations"]] == [0.975, 0.95]
    assert [len(each["references"]) for each in history["observations"]] == [1, 0]
    after = client.http.get(f"/api/runs/{run_id}/history", params={"after_step": 10}).json()
    assert [each["step"] for each in after["observations"]] == [20]


def test_a_long_history_is_whole(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(sequence) for sequence in range(1, 601)])
    history = client.http.get(f"/api/runs/{run_id}/history").json()
    assert [each["step"] for each in history["observations"]] == list(range(1, 601))


@pytest.mark.parametrize("path", ["/api/runs/none", "/api/runs/none/history"])
def test_an_unknown_run_is_not_found(client: Client, path: str) -> None:
    response = client.http.get(path)
    assert response.status_code == 404
    assert "'none' is not in this store" in response.json()["detail"]


def test_a_step_that_is_no_number_is_refused(seen: Client, run_id: str) -> None:
    assert seen.http.get(f"/api/runs/{run_id}/history", params={"after_step": "x"}).status_code == 422
    beyond = {"after_step": str(2**70)}
    assert seen.http.get(f"/api/runs/{run_id}/history", params=beyond).json()["observations"] == []


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
# Method, path, status, what is said.
REFUSED = [
    ("GET", "/none", 404, "there is nothing at '/none'"),
    ("GET", "/api/none", 404, "there is nothing at '/api/none'"),
    ("GET", "/api/runs/none", 404, "run 'none' is not in this store"),
    ("GET", "/api/runs/none/history", 404, "run 'none' is not in this store"),
    ("GET", "/runs/none", 404, "run 'none' is not in this store"),
    ("GET", "/runs", 404, "there is nothing at '/runs'"),
    ("GET", "/docs", 404, "there is nothing at '/docs'"),
    ("POST", "/api/runs", 405, "'/api/runs' can be read only, with GET or HEAD"),
    ("DELETE", "/runs/none", 405, "'/runs/none' can be read only, with GET or HEAD"),
    ("PUT", "/metrics", 405, "'/metrics' can be read only, with GET or HEAD"),
    ("GET", "/api/runs/none/history?after_step=x", 422, "unable to parse string as an integer"),
]


@pytest.mark.parametrize(("method", "path", "status", "said"), REFUSED)
def test_people_get_a_page_and_programs_json_of_what_cannot_be_answered(
    method: str, path: str, status: int, said: str, client: Client
) -> None:
    for accept in (BROWSER, "text/html", "text/html, application/json;q=0.9"):
        page = client.http.request(method, path, headers={"Accept": accept})
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert said in html.unescape(page.text)
        assert '<link rel="stylesheet" href="/style.css">' in page.text
    for accept in ("*/*", "application/json", "", "application/json, text/html", "text/html;q=0", "nonsense;q=x"):
        answer = client.http.request(method, path, headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert said in str(answer.json()["detail"])
        assert "Accept" in answer.headers["vary"]
    if status == 405:
        assert answer.headers["allow"] == "GET, HEAD"


def test_a_store_that_does_not_answer_is_said_to_both(start: Callable[..., Client], tmp_path: Path) -> None:
    client = start()
    client.register(registration())
    (tmp_path / "store.db").unlink()
    (tmp_path / "store.db").mkdir()
    for accept, kind in ((BROWSER, "text/html; charset=utf-8"), ("*/*", "application/json")):
        answer = client.http.get("/readyz", headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (503, kind)
        assert "it was replaced while it was served" in answer.text
        # What is in memory is shown nevertheless.
        assert client.http.get("/runs/run", headers={"Accept": accept}).status_code == 200
        assert client.http.get("/api/runs/run/history", headers={"Accept": accept}).status_code == 200


PATHS = ["/", "/runs/{}", "/runbook", "/style.css", "/icon.svg", "/favicon.ico"]
PATHS += ["/metrics", "/healthz", "/readyz", "/api/runs", "/api/runs/{}"]
PATHS += ["/api/runs/{}/history", "/api/openapi.json", "/none", "/runs/none", "/api/runs/none"]


@pytest.mark.parametrize("path", PATHS)
def test_head_says_what_get_would_say(path: str, seen: Client, run_id: str) -> None:
    path = path.format(run_id)
    # The overview reads curves for a bounded time, and those of other runs for the next answer.
    eventually(lambda: abs(len(seen.http.get(path).content) - len(seen.http.get(path).content)) < 50)
    got, head = seen.http.get(path), seen.http.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert set(head.headers) == set(got.headers)
    assert head.headers["content-type"] == got.headers["content-type"]
    # Times and counters may have grown by a digit.
    assert abs(int(head.headers["content-length"]) - int(got.headers["content-length"])) < 50
    # The connection goes on: no body came behind the headers.
    assert seen.http.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("asked", "compressed"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("GZIP", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("br", False),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text; version=1.0.0"])
def test_metrics_are_compressed_where_that_is_asked_for(
    asked: str, compressed: bool, accept: str, seen: Client, run_id: str
) -> None:
    with seen.http.stream("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": asked}) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers.get("content-encoding") == ("gzip" if compressed else None)
    assert int(response.headers["content-length"]) == len(raw)
    assert "Accept-Encoding" in response.headers["vary"]
    text = gzip.decompress(raw) if compressed else raw
    assert f'run_changed_weights{{run="{run_id}"}} 50'.encode() in text
    assert not compressed or len(raw) < len(text) / 3


@pytest.mark.parametrize("path", [path.format("none") for path in PATHS])
def test_every_answer_keeps_a_browser_on_the_safe_side(client: Client, path: str) -> None:
    headers = client.http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("path", "kind", "beginning"),
    [
        ("/icon.svg", "image/svg+xml", b"<svg "),
        # No cursor, three sizes.
        ("/favicon.ico", "image/x-icon", struct.pack("<HHH", 0, 1, 3)),
    ],
)
def test_the_icon_is_there_and_asked_for_once_a_day(path: str, kind: str, beginning: bytes, client: Client) -> None:
    answer = client.http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.content.startswith(beginning)
    assert answer.headers["cache-control"] == "public, max-age=86400, immutable"
    assert client.http.get("/").headers["cache-control"] == "no-store"


def test_nothing_can_be_changed_over_http(seen: Client, run_id: str) -> None:
    for path in ("/", "/api/runs", f"/api/runs/{run_id}", "/metrics"):
        for method in ("POST", "PUT", "DELETE"):
            assert seen.http.request(method, path).status_code == 405


def test_the_api_describes_itself(client: Client) -> None:
    paths = client.http.get("/api/openapi.json").json()["paths"]
    assert {"/metrics", "/healthz", "/readyz", "/api/runs", "/api/runs/{run_id}"} < set(paths)
