"""Two services on one store: what is deployed by kustomize, Helm and compose, and that nothing is scraped twice."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.rendering import render
from tests.deploy.test_compose import SERVICES
from tests.deploy.test_generated import DEPLOY
from tests.deploy.test_helm import _comparable, only
from tests.deploy.test_kubernetes import OF_THE_OPERATOR, rendered_by_kustomize

Manifest = dict[str, Any]
CHANGED = {"NetworkPolicy", "ServiceMonitor"}
EGRESS = [{"ports": [{"port": 5432}, {"port": 53}, {"port": 53, "protocol": "UDP"}]}]


@pytest.fixture(scope="module")
def kustomized() -> list[Manifest]:
    return rendered_by_kustomize("kubernetes-pair")


def test_two_wait_for_one_store_and_have_no_volume(kustomized: list[Manifest]) -> None:
    for manifest in kustomized:
        if manifest["kind"] not in OF_THE_OPERATOR:
            kubernetes_validate.validate(manifest, "1.29", strict=True)
    spec = only(kustomized, "Deployment")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value") or each["valueFrom"] for each in container["env"]}
    assert spec["replicas"] == 2
    assert environment["SPARSITY_MONITOR_STANDBY"] == "true"
    secret = {"name": "sparsity-monitor-store", "key": "url"}
    assert environment["SPARSITY_MONITOR_STORE_URL"] == {"secretKeyRef": secret}
    assert {each["name"] for each in container["volumeMounts"]} == {"tmp", "tokens"}
    # The one that serves is ready, and gets what is sent to the service; an update does not wait for the other.
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": "100%"}
    assert only(kustomized, "NetworkPolicy")["spec"]["egress"] == EGRESS


def test_nothing_else_differs_from_a_single_service(kustomized: list[Manifest]) -> None:
    def others(manifests: list[Manifest]) -> list[Manifest]:
        return [each for each in manifests if each["kind"] not in {*CHANGED, "StatefulSet", "Deployment"}]

    assert others(kustomized) == others(rendered_by_kustomize("kubernetes"))


def test_chart_sends_what_kustomize_sends(kustomized: list[Manifest]) -> None:
    chart = render({"pair": {"enabled": True}, "networkPolicy": {"egress": EGRESS}})
    assert "StatefulSet" not in {each["kind"] for each in chart}
    for kind in ("Deployment", *CHANGED):
        sent, expected = (_comparable(only(each, kind)["spec"]) for each in (chart, kustomized))
        assert sent == expected, kind


def test_a_run_has_the_same_series_whichever_serves(kustomized: list[Manifest]) -> None:
    one, two = (
        yaml.safe_load((DEPLOY / "prometheus" / name).read_text("utf-8"))
        for name in ("prometheus.yml", "prometheus.pair.yml")
    )
    (relabelling,) = two["scrape_configs"][0].pop("metric_relabel_configs")
    assert two["scrape_configs"][0]["static_configs"][0]["targets"].pop() == "second:8765"
    assert one == two
    (in_cluster,) = only(kustomized, "ServiceMonitor")["spec"]["endpoints"][0]["metricRelabelings"]
    assert in_cluster == {
        "sourceLabels": relabelling["source_labels"],
        "regex": relabelling["regex"],
        "targetLabel": (instance := relabelling["target_label"]),
        "replacement": relabelling["replacement"],
    }
    assert instance == "instance"


def test_compose_adds_a_second_service_with_the_same_rights() -> None:
    added = yaml.safe_load((DEPLOY / "compose.pair.yaml").read_text("utf-8"))["services"]
    first, second = added["service"], added["second"]
    assert second["environment"].keys() == first["environment"].keys()
    assert first["environment"]["SPARSITY_MONITOR_STANDBY"] == "true"
    for name in ("cap_drop", "read_only", "restart", "secrets", "security_opt", "stop_grace_period", "tmpfs"):
        assert second[name] == SERVICES["service"][name], name
    # One that waits is well: what depends on it starts.
    assert "/healthz" in first["healthcheck"]["test"][3]
    (mount,) = added["prometheus"]["volumes"]
    assert (DEPLOY / mount.split(":")[0]).is_file()
    example = (DEPLOY / ".env.example").read_text("utf-8")
    for port in second["ports"]:
        variable, _, address = port.removeprefix("${").partition("}")[0].partition(":-")
        assert f"#{variable}={address}\n" in example
