"""The configuration files against the programs that read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.deploy.test_generated import DEPLOY
from tests.grafana.binaries import binary, check


@pytest.mark.parametrize(
    "name", ["prometheus.yml", "prometheus.tls.yml", "prometheus.bare-metal.yml", "prometheus.pair.yml"]
)
def test_prometheus_takes_its_configuration(name: str, tmp_path: Path) -> None:
    promtool = binary("promtool")
    text = (DEPLOY / "prometheus" / name).read_text("utf-8")
    # Where the rules are in the container; here they are beside it, so that they are checked as well.
    text = text.replace("/etc/prometheus/rules", str(DEPLOY / "prometheus/rules"))
    for secret in ("metrics", "ca"):
        (tmp_path / secret).write_text("a secret")
    (tmp_path / name).write_text(text.replace("/run/secrets", str(tmp_path)))
    assert "1 rule files found" in check(promtool, "check", "config", tmp_path / name)


def test_both_configurations_differ_only_in_addresses_and_the_token() -> None:
    compose, bare_metal = (
        (DEPLOY / "prometheus" / name).read_text("utf-8") for name in ("prometheus.yml", "prometheus.bare-metal.yml")
    )
    for host in ("service:", "alertmanager:"):
        compose = compose.replace(f'"{host}', '"127.0.0.1:')
    read = yaml.safe_load(compose)
    # A service on the same host listens to it alone, and needs none.
    assert read["scrape_configs"][0].pop("authorization") == {"credentials_file": "/run/secrets/metrics"}
    assert read == yaml.safe_load(bare_metal)


def test_prometheus_takes_the_rules() -> None:
    assert "SUCCESS" in check(binary("promtool"), "check", "rules", DEPLOY / "prometheus/rules/sparsity-monitor.yml")


def test_alertmanager_takes_its_configuration() -> None:
    assert "SUCCESS" in check(binary("amtool"), "check-config", DEPLOY / "alertmanager/alertmanager.yml")


def test_rules_of_kubernetes_are_the_same() -> None:
    rule = yaml.safe_load((DEPLOY / "kubernetes/prometheus-rule.yaml").read_text("utf-8"))
    rules = yaml.safe_load((DEPLOY / "prometheus/rules/sparsity-monitor.yml").read_text("utf-8"))
    assert rule["spec"] == rules
