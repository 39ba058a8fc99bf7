"""Whoever asks for metrics gets them in a format that it can parse, under the same plain names."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from monitor import served_metrics
from monitor.service.quantities.families import FAMILIES
from monitor.service.web.negotiation import metrics_format
from monitor.wire import monitor_pb2 as pb
from tests.end_to_end.prometheus import running_prometheus
from tests.eventually import eventually
from tests.grafana.binaries import binary
from tests.service.messages import finished, logged, observed, registration
from tests.service.quantities.test_families import SEEN_ELSEWHERE
from tests.service.running import Client

TEXT = "text/plain; version=0.0.4"
TEXT_1 = "text/plain; version=1.0.0"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
_PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"


def _of_prometheus_3(escaping: str) -> str:
    """As scrape/scrape.go writes it, with the weights that it gives to config.DefaultScrapeProtocols."""
    return (
        f"application/openmetrics-text;version=1.0.0;escaping={escaping};q=0.6,"
        "application/openmetrics-text;version=0.0.1;q=0.5,"
        f"text/plain;version=1.0.0;escaping={escaping};q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    )


# Who asks → header Accept, and the format of the answer.
ASKED = {
    "Prometheus 2.42": (
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        OPENMETRICS,
    ),
    "Prometheus 3": (_of_prometheus_3("allow-utf-8"), OPENMETRICS),
    "Prometheus 3, legacy names": (_of_prometheus_3("underscores"), OPENMETRICS),
    "Prometheus 3, dots": (_of_prometheus_3("dots"), OPENMETRICS),
    "Prometheus 3, values": (_of_prometheus_3("values"), OPENMETRICS),
    "Prometheus 3, native histograms": (f"{_PROTOBUF};q=0.7,{_of_prometheus_3('allow-utf-8')}", OPENMETRICS),
    "Prometheus 3, text preferred": (
        "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.4",
        TEXT,
    ),
    "Prometheus 3, new text alone": ("text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.5", TEXT_1),
    "Prometheus 3, protobuf alone": (f"{_PROTOBUF};q=0.6,*/*;q=0.5", TEXT),
    "OpenMetrics 1.0": ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
    "OpenMetrics 1.0, quoted": ('application/openmetrics-text; version="1.0.0"', OPENMETRICS),
    "OpenMetrics of any version": ("application/openmetrics-text", OPENMETRICS),
    "OpenMetrics 2.0-rc, then 1.0": (
        "application/openmetrics-text;version=2.0.0-rc.0;escaping=allow-utf-8;q=0.7," + _of_prometheus_3("allow-utf-8"),
        OPENMETRICS,
    ),
    "OpenMetrics 2.0-rc alone": ("application/openmetrics-text;version=2.0.0-rc.0", TEXT),
    "a browser": ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
    "curl": ("*/*", TEXT),
    "nobody in particular": ("", TEXT),
    "anything but OpenMetrics": ("application/openmetrics-text;q=0, text/plain", TEXT),
    "nonsense": ("application/openmetrics-text;version=x.y;q=z, text/plain;version=;q, ;;,", TEXT),
}


@pytest.fixture
def seen(client: Client, run_id: str) -> str:
    """The id of a run with all kinds of metrics, and labels that formats have to escape."""
    parent = pb.Parent(run_id='a "parent"', step=5)
    client.register(registration(run_id, name='a "name" \\ of\ntwo lines, 学', parent=parent, planned_steps=40))
    log = logged(2, loss=float("nan"), **dict.fromkeys(served_metrics.NAMES, 1.0))
    client.send(run_id, [observed(1, unmeasured=[0, 0, 2]), log, finished(3)])
    # What a transfer takes is not known where weights are unmeasured.
    client.register(registration(f"{run_id} measured"))
    client.send(f"{run_id} measured", [observed(1)])
    return run_id


def _parsed(answer: httpx.Response) -> dict[str, Metric]:
    """Read an answer as its type says; the parsers are strict."""
    kind = answer.headers["content-type"].partition(";")[0]
    is_text = kind == "text/plain"
    assert is_text or kind == "application/openmetrics-text"
    parse = text_string_to_metric_families if is_text else openmetrics.text_string_to_metric_families
    return {sample.name: metric for metric in parse(answer.text) for sample in metric.samples}  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize("who", ASKED)
def test_everybody_gets_what_it_can_parse(who: str, encoding: str, client: Client, seen: str) -> None:
    accept, expected = ASKED[who]
    headers = {"Accept": accept, "Accept-Encoding": encoding}
    answer = client.http.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(expected)
    assert answer.headers.get("content-encoding", "identity") == encoding
    metrics = _parsed(answer)
    shown = {each.name for each in FAMILIES if each.kind != "histogram"} - SEEN_ELSEWHERE
    assert shown <= set(metrics)
    (about,) = [
        sample.labels
        for sample in metrics["sparsity_monitor_run_info"].samples
        if sample.name == "sparsity_monitor_run_info" and sample.labels["run"] == seen
    ]
    assert about["name"] == 'a "name" \\ of\ntwo lines, 学'

    head = client.http.head("/metrics", headers=headers)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-encoding", "vary"):
        assert head.headers.get(name) == answer.headers.get(name)


def test_names_are_the_same_in_every_format(client: Client, seen: str) -> None:
    one_of_each_format = {expected: accept for accept, expected in ASKED.values()}.values()
    names = [set(_parsed(client.http.get("/metrics", headers={"Accept": accept}))) for accept in one_of_each_format]
    assert all(each == names[0] for each in names)


@pytest.mark.parametrize("who", [who for who, (_, kind) in ASKED.items() if kind != OPENMETRICS])
def test_promtool_reads_every_text(who: str, client: Client, seen: str) -> None:
    promtool = binary("promtool")
    text = client.http.get("/metrics", headers={"Accept": ASKED[who][0]}).content
    check = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=30)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


def test_prometheus_reads_what_it_asked_for(start: Callable[..., Client], tmp_path: Path) -> None:
    client = start()
    client.register(registration("run", name='a "name" \\ 学'))
    client.send("run", [observed(1), logged(2, loss=1)])
    with running_prometheus(tmp_path, client.listening.http_address) as prometheus:
        eventually(lambda: prometheus.query("up == 1") != [])
        eventually(lambda: prometheus.query("sparsity_monitor_run_info") != [])
        ((about, _),) = prometheus.query("sparsity_monitor_run_info")
        assert about["name"] == 'a "name" \\ 学'
        ((_, changed),) = prometheus.query("sparsity_monitor_run_changed_weights")
        assert changed == 50
        scraped = {labels["__name__"] for labels, _ in prometheus.query('{__name__=~"sparsity_monitor_.+"}')}
    # Every kind: a counter, an info, a histogram.
    assert {"sparsity_monitor_items_stored_total", "sparsity_monitor_service_info"} < scraped
    assert "sparsity_monitor_store_commit_seconds_bucket" in scraped


def test_no_name_has_anything_to_escape() -> None:
    """Whatever escaping is asked for, the names stay what dashboards and alerts call them."""
    for each in FAMILIES:
        assert all(re.fullmatch(r"[a-z_]+", name) for name in (each.name, *each.labels))
    for escaping in ("allow-utf-8", "underscores", "dots", "values"):
        assert "escaping" not in metrics_format(f"application/openmetrics-text;version=1.0.0;escaping={escaping}")
