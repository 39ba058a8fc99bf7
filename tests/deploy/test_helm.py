"""The Helm chart, rendered by Helm's own engine: what it sends to a cluster is what deploy/kubernetes sends."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from monitor.grafana.alerts.settings import AlertSettings
from monitor.version import __version__
from tests.deploy.rendering import CHART, lint, refusals, render
from tests.deploy.test_kubernetes import MANIFESTS, OF_THE_OPERATOR, rendered_by_kustomize

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def plain() -> list[Manifest]:
    return render({})


def only(manifests: list[Manifest], kind: str) -> Manifest:
    (manifest,) = [each for each in manifests if each["kind"] == kind]
    return manifest


def test_helm_has_nothing_against_the_chart() -> None:
    assert [each["error"] for each in lint()] == ["icon is recommended"]


def test_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__


def test_manifests_are_valid(plain: list[Manifest]) -> None:
    for manifest in plain:
        if manifest["kind"] not in OF_THE_OPERATOR:
            kubernetes_validate.validate(manifest, "1.29", strict=True)


def test_chart_sends_what_kustomize_sends(plain: list[Manifest]) -> None:
    kinds = sorted(each["kind"] for each in plain)
    # Helm makes the namespace itself.
    assert kinds == sorted(each["kind"] for each in MANIFESTS if each["kind"] != "Namespace")
    for kind in ("Service", "NetworkPolicy", "ServiceMonitor", "PrometheusRule", "StatefulSet"):
        chart, kustomize = (_comparable(only(each, kind)["spec"]) for each in (plain, MANIFESTS))
        assert chart == kustomize, kind


def _comparable(spec: Any) -> Any:
    """Without what tells releases apart, and Kubernetes' defaults; kustomize adds the tag of the image itself."""
    if isinstance(spec, list):
        return [_comparable(each) for each in spec]
    if not isinstance(spec, dict):
        return spec
    left_out = ("app.kubernetes.io/instance", "imagePullPolicy")
    plain = {name: _comparable(each) for name, each in spec.items() if name not in left_out}
    if "image" in plain:
        plain["image"] = plain["image"].removesuffix(f":{__version__}")
    return plain


def test_dashboards_are_those_that_are_generated(plain: list[Manifest]) -> None:
    def data(manifests: list[Manifest]) -> dict[str, str]:
        maps = [each for each in manifests if each["kind"] == "ConfigMap"]
        assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in maps)
        assert all(each["metadata"]["annotations"] == {"grafana_folder": "sparsity-monitor"} for each in maps)
        return {name: text.rstrip("\n") for each in maps for name, text in each["data"].items()}

    assert data(plain) == data(MANIFESTS)


def test_selectors_meet_in_every_release() -> None:
    release = render({}, name="other")
    names = {each["metadata"]["name"] for each in release if each["kind"] != "ConfigMap"}
    assert names == {"other-sparsity-monitor"}
    labels = only(release, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "other"
    assert only(release, "Service")["spec"]["selector"] == labels
    assert only(release, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    found = only(release, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    assert found <= only(release, "Service")["metadata"]["labels"].items()
    # The job that alerts and dashboards know.
    assert labels["app.kubernetes.io/name"] == AlertSettings().job


def test_values_reach_their_places() -> None:
    label = {"release": "kube-prometheus-stack"}
    release = render(
        {
            "image": {"repository": "registry.example/monitor", "tag": "1.2"},
            "imagePullSecrets": [{"name": "pull"}],
            "tokens": {"secretName": "tokens-of-ours"},
            "serviceUrl": "https://monitor.example/sparsity",
            "env": [{"name": "SPARSITY_MONITOR_MAX_RUNS", "value": "10"}],
            "persistence": {"size": "1Gi", "storageClassName": "fast"},
            "networkPolicy": {"prometheusNamespace": "observability", "egress": [{"ports": [{"port": 5432}]}]},
            "serviceMonitor": {"interval": "1m", "additionalLabels": label},
            "prometheusRule": {"additionalLabels": label},
            "grafanaDashboards": {"labels": {"grafana_dashboard": None, "board": "yes"}},
        }
    )
    spec = only(release, "StatefulSet")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/monitor:1.2"
    assert spec["template"]["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert {each["name"]: each["value"] for each in container["env"]} == {
        "SPARSITY_MONITOR_SERVICE_URL": "https://monitor.example/sparsity",
        "SPARSITY_MONITOR_TOKENS_DIRECTORY": "/etc/sparsity-monitor/tokens",
        "SPARSITY_MONITOR_MAX_RUNS": "10",
    }
    assert {"name": "tokens", "secret": {"secretName": "tokens-of-ours", "defaultMode": 0o440}} in spec["template"][
        "spec"
    ]["volumes"]
    (claim,) = spec["volumeClaimTemplates"]
    assert (claim["spec"]["storageClassName"], claim["spec"]["resources"]["requests"]["storage"]) == ("fast", "1Gi")
    policy = only(release, "NetworkPolicy")["spec"]
    assert policy["egress"] == [{"ports": [{"port": 5432}]}]
    assert "observability" in str(policy["ingress"])
    monitor = only(release, "ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["interval"] == "1m"
    assert monitor["spec"]["endpoints"][0]["authorization"]["credentials"]["name"] == "tokens-of-ours"
    for each in (monitor, only(release, "PrometheusRule")):
        assert each["metadata"]["labels"].items() >= label.items()
    rules = [rule for group in only(release, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    links = [rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule]
    assert links
    assert all(link.startswith("https://monitor.example/sparsity/runbook#") for link in links)
    assert {each["metadata"]["labels"].get("board") for each in release if each["kind"] == "ConfigMap"} == {"yes"}


def test_a_certificate_is_mounted_probed_and_scraped_as_kustomize_does_it() -> None:
    release = render({"tls": {"secretName": "sparsity-monitor-tls"}})
    for manifest in release:
        if manifest["kind"] not in OF_THE_OPERATOR:
            kubernetes_validate.validate(manifest, "1.29", strict=True)
    rendered = {each["kind"]: each for each in rendered_by_kustomize("kubernetes-tls")}
    for kind in ("StatefulSet", "ServiceMonitor"):
        chart, kustomize = (_comparable(each["spec"]) for each in (only(release, kind), rendered[kind]))
        assert _sorted(chart) == _sorted(kustomize), kind


def _sorted(spec: Any) -> Any:
    """Named entries by their names: kustomize puts those of a patch first."""
    if isinstance(spec, list):
        return sorted(map(_sorted, spec), key=lambda each: str(each.get("name")) if isinstance(each, dict) else "")
    return {name: _sorted(each) for name, each in spec.items()} if isinstance(spec, dict) else spec


def test_a_certificate_of_a_known_signer_needs_no_authority_and_may_have_another_name() -> None:
    release = render({"tls": {"secretName": "public", "serverName": "monitor.example", "caKey": ""}}, name="other")
    (endpoint,) = only(release, "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == ("https", {"serverName": "monitor.example"})


def test_what_a_cluster_has_no_use_for_is_left_out() -> None:
    off = {"enabled": False}
    parts = ("networkPolicy", "serviceMonitor", "prometheusRule", "grafanaDashboards")
    assert {each["kind"] for each in render(dict.fromkeys(parts, off))} == {"Service", "StatefulSet"}


# Values, and what the refusal names.
REFUSED: list[tuple[Manifest, str]] = [
    ({"serviceMonitors": {}}, "serviceMonitors"),
    ({"serviceUrl": "monitor.example"}, "serviceUrl"),
    ({"serviceUrl": "https://monitor.example/"}, "serviceUrl"),
    ({"serviceMonitor": {"interval": "15"}}, "interval"),
    ({"serviceMonitor": {"additionalLabels": {"release": 1}}}, "release"),
    ({"prometheusRule": {"labels": {}}}, "labels"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"image": {"repository": ""}}, "repository"),
    ({"tokens": {"secretName": ""}}, "secretName"),
    ({"tls": {"secret": "mine"}}, "tls"),
]


def test_values_that_cannot_work_are_refused_by_name() -> None:
    said = refusals([{}, *(values for values, _ in REFUSED)])
    assert said[0] == ""
    for (values, named), refusal in zip(REFUSED, said[1:], strict=True):
        assert named in refusal, values
