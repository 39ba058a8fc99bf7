from __future__ import annotations

import re
from collections.abc import Callable

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from monitor.service.quantities.families import FAMILIES, PREFIX, family
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, logged, observed, registration
from tests.service.running import Client

_UNITS = {"second": "seconds", "byte": "bytes", "milliseconds": "seconds", "megabytes": "bytes", "percent": "ratio"}

# What few services or runs have.
SEEN_ELSEWHERE = {
    # tests/service/access/test_renewal.py
    "sparsity_monitor_certificate_expires_timestamp_seconds",
    # tests/service/test_pair.py: no other service can have a file.
    "sparsity_monitor_store_info",
    # tests/service/care/test_marks.py
    *(f"sparsity_monitor_run_thinned_{name}" for name in ("until_step", "every", "observations")),
}

# As `served()` reports it.
SERVED = {"served_differing_groups": 1, "served_groups": 3, "served_step": 2}


def test_names_follow_the_guidance_of_prometheus() -> None:
    for each in FAMILIES:
        assert re.fullmatch(r"sparsity_monitor_[a-z][a-z_]*[a-z]", each.name)
        assert each.name.endswith("_total") == (each.kind == "counter")
        assert each.name.endswith("_info") == (each.kind == "info")
        assert not set(each.name.split("_")) & set(_UNITS)


def test_each_metric_is_in_the_table_once_and_explained() -> None:
    names = [each.name for each in FAMILIES]
    assert len(set(names)) == len(names)
    assert [each.name for each in FAMILIES if not each.help.endswith(".")] == []


def test_a_metric_is_found_without_the_prefix() -> None:
    assert family("run_step").name == PREFIX + "run_step"


def test_the_table_is_what_is_exported(start: Callable[..., Client]) -> None:
    client = start()
    client.register(registration("run", parent=pb.Parent(run_id="base", step=5), planned_steps=40))
    client.send("run", [observed(1, unmeasured=[0, 0, 2]), logged(2, loss=1, **SERVED), finished(3)])
    # Bytes of a transfer are known only where nothing is unmeasured.
    client.register(registration("whole"))
    client.send("whole", [observed(1)])
    # Fails once, so that the limit has a series.
    client.send("run", [logged(4, **{"x" * 600: 1.0})])
    text = client.http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}).text
    exported = {}
    for metric in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
        labels = {label for sample in metric.samples for label in sample.labels if label != "le"}
        exported[metric.name + suffix] = (metric.type, metric.documentation, labels)
    users_own = {"label_algorithm", "label_seed"}
    documented = {
        each.name: (
            each.kind,
            each.help,
            {*each.labels, *(users_own if each.name.endswith("_run_info") else ())},
        )
        for each in FAMILIES
        if each.name not in SEEN_ELSEWHERE
    }
    assert exported == documented
