"""The manifests against the schemas of Kubernetes; those of the Prometheus operator by their structure."""

from __future__ import annotations

import shutil
from typing import Any

import kubernetes_validate
import pytest
import yaml

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.files.kubernetes import NAME
from monitor.service.access.scopes import Scope
from tests.deploy.test_generated import DEPLOY
from tests.grafana.binaries import check

DIRECTORY = DEPLOY / "kubernetes"
KUSTOMIZATION = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text("utf-8"))
MANIFESTS: list[dict[str, Any]] = [
    manifest
    for name in KUSTOMIZATION["resources"]
    for manifest in yaml.load_all((DIRECTORY / name).read_text("utf-8"), yaml.CSafeLoader)
]
OF_THE_OPERATOR = {"ServiceMonitor", "PrometheusRule"}


def _only(kind: str) -> dict[str, Any]:
    (manifest,) = [each for each in MANIFESTS if each["kind"] == kind]
    return manifest


def test_kustomization_names_every_file() -> None:
    there = {path.name for path in DIRECTORY.iterdir()} - {"kustomization.yaml"}
    assert set(KUSTOMIZATION["resources"]) == there


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
@pytest.mark.parametrize("version", ["1.29", "1.33"])
def test_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    if manifest["kind"] in OF_THE_OPERATOR:
        assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        return
    kubernetes_validate.validate(manifest, version, strict=True)


def rendered_by_kustomize(directory: str) -> list[dict[str, Any]]:
    """What `kubectl apply --kustomize` would send, without the namespace that all of it gets."""
    kubectl = shutil.which("kubectl") or pytest.skip("kubectl is not installed")
    text = check(kubectl, "kustomize", DEPLOY / directory)
    return sorted(yaml.safe_load_all(text), key=lambda each: (each["kind"], each["metadata"]["name"]))


def test_everything_is_put_into_the_namespace() -> None:
    rendered = rendered_by_kustomize("kubernetes")
    assert len(rendered) == len(MANIFESTS)
    assert {each["metadata"].get("namespace") for each in rendered if each["kind"] != "Namespace"} == {NAME}


def test_kube_prometheus_stack_finds_what_has_the_label_of_its_release() -> None:
    plain, labelled = rendered_by_kustomize("kubernetes"), rendered_by_kustomize("kube-prometheus-stack")
    release = {each["kind"]: each["metadata"]["labels"].pop("release", None) for each in labelled}
    assert {kind for kind, name in release.items() if name} == OF_THE_OPERATOR
    # And nothing else is different.
    assert labelled == plain


def test_a_certificate_is_mounted_where_the_service_reads_it_and_probes_and_prometheus_go_by_https() -> None:
    rendered = {each["kind"]: each for each in rendered_by_kustomize("kubernetes-tls")}
    kubernetes_validate.validate(rendered["StatefulSet"], "1.29", strict=True)
    pod = rendered["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "tls"]
    given = {each["name"]: each["value"] for each in container["env"]}
    assert given["SPARSITY_MONITOR_TLS_CERTIFICATE"] == f"{mount['mountPath']}/tls.crt"
    assert given["SPARSITY_MONITOR_TLS_KEY"] == f"{mount['mountPath']}/tls.key"
    assert given["SPARSITY_MONITOR_TOKENS_DIRECTORY"]
    for probe in ("readinessProbe", "startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
        assert container[probe]["httpGet"]["path"]
    (endpoint,) = rendered["ServiceMonitor"]["spec"]["endpoints"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "tls"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["ca"]["secret"]["name"] == volume["secret"]["secretName"]


def test_selectors_and_ports_meet() -> None:
    pods = _only("StatefulSet")["spec"]
    labels = pods["template"]["metadata"]["labels"]
    (container,) = pods["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    service = _only("Service")
    assert pods["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    monitor = _only("ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    policy = _only("NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports


def test_job_is_the_one_that_alerts_know() -> None:
    label = _only("ServiceMonitor")["spec"]["jobLabel"]
    assert _only("Service")["metadata"]["labels"][label] == "sparsity-monitor"
    assert 'up{job="sparsity-monitor"}' in str(_only("PrometheusRule"))


def test_instance_stays_the_same_when_the_pod_is_replaced() -> None:
    (endpoint,) = _only("ServiceMonitor")["spec"]["endpoints"]
    assert {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"} in endpoint["relabelings"]


def test_pod_may_do_no_more_than_it_needs() -> None:
    pod = _only("StatefulSet")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_pages_and_rules_link_to_the_same_place() -> None:
    (container,) = _only("StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert container["env"][0] == {"name": "SPARSITY_MONITOR_SERVICE_URL", "value": AlertSettings().service_url}


def test_tokens_are_mounted_where_the_service_looks_and_prometheus_shows_its_own() -> None:
    pod = _only("StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "tokens"]
    assert {"name": "SPARSITY_MONITOR_TOKENS_DIRECTORY", "value": mount["mountPath"]} in container["env"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "tokens"]
    # Its group reads it, and nobody else.
    assert (oct(volume["secret"]["defaultMode"]), pod["securityContext"]["fsGroup"]) == ("0o440", 10001)
    (endpoint,) = _only("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": volume["secret"]["secretName"], "key": Scope.METRICS}


def test_dashboards_fit_into_what_kubectl_applies() -> None:
    config_maps = [each for each in MANIFESTS if each["kind"] == "ConfigMap"]
    assert len(config_maps) == 4
    for each in config_maps:
        assert len(yaml.safe_dump(each)) < 256 * 1024
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
