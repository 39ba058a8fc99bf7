"""The compose file, as far as it can be checked without a Docker engine: by its structure.

Once, by hand, it was also held against the compose specification's schema; no maintained package brings it along.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.grafana.addresses import DATASOURCE_UID
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.files.provisioning import DASHBOARD_DIRECTORY, data_sources
from monitor.service.access.scopes import Scope
from tests.deploy.test_generated import DEPLOY

TEXT = (DEPLOY / "compose.yaml").read_text("utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = (DEPLOY / ".env.example").read_text("utf-8")
KEYS = {
    "build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck", "image", "ports",
    "read_only", "restart", "secrets", "security_opt", "stop_grace_period", "tmpfs", "volumes",
}  # fmt: skip


def test_the_four_services_are_there() -> None:
    assert set(SERVICES) == {"service", "prometheus", "alertmanager", "grafana"}
    assert set(COMPOSE) == {"name", "secrets", "services", "volumes"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_pinned_checked_restarted_and_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= KEYS
    tag = service["image"].partition(":")[2]
    assert tag == "local" if "build" in service else re.fullmatch(r"v?\d+\.\d+\.\d+", tag)
    assert set(service["healthcheck"]) == {"test", "interval", "timeout", "retries", "start_period"}
    assert service["restart"] == "unless-stopped"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_on_this_machine_only_unless_asked_for(name: str) -> None:
    for port in SERVICES[name]["ports"]:
        variable, address = re.fullmatch(r"\$\{([A-Z_]+):-(127\.0\.0\.1:\d+)\}:\d+", port).groups()  # type: ignore[union-attr]
        assert f"#{variable}={address}\n" in EXAMPLE


@pytest.mark.parametrize("name", SERVICES)
def test_mounts_exist_and_volumes_are_declared(name: str) -> None:
    for mount in SERVICES[name]["volumes"]:
        source, target, *mode = mount.split(":")
        assert target.startswith("/")
        if source.startswith("./"):
            assert (DEPLOY / source).exists(), mount
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


def test_every_password_has_to_be_chosen() -> None:
    required = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert required == {"GRAFANA_ADMIN_PASSWORD", "ALERT_WEBHOOK_URL"}
    for name in required:
        assert f"\n{name}=\n" in EXAMPLE, "the example must not hold a value that somebody might keep"
    grafana = SERVICES["grafana"]["environment"]
    assert grafana["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_ADMIN_PASSWORD:?")
    assert grafana["GF_AUTH_ANONYMOUS_ENABLED"] == "false"


def test_names_and_ports_agree_with_the_configuration_files() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
    (scrape,) = prometheus["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["service:8765"]}]
    assert scrape["job_name"] == "sparsity-monitor"
    (alertmanagers,) = prometheus["alerting"]["alertmanagers"]
    assert alertmanagers["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    sources = {each["uid"]: each["url"] for each in data_sources()["datasources"]}
    assert sources[DATASOURCE_UID] == "http://prometheus:9090"
    mounts = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert DASHBOARD_DIRECTORY in mounts


def test_links_lead_to_the_port_that_is_published() -> None:
    said = SERVICES["service"]["environment"]["SPARSITY_MONITOR_SERVICE_URL"]
    default = re.fullmatch(r"\$\{SERVICE_URL:-(.*)\}", said)[1]  # type: ignore[index]
    assert default == AlertSettings().service_url
    assert any(f":-{default.removeprefix('http://')}}}" in port for port in SERVICES["service"]["ports"])
    assert f"#SERVICE_URL={default}\n" in EXAMPLE


def test_alertmanager_is_alone_and_has_room_for_its_configuration() -> None:
    alertmanager = SERVICES["alertmanager"]
    assert alertmanager["command"][0].endswith(" --cluster.listen-address=")
    assert alertmanager["tmpfs"] == ["/tmp"]


@pytest.mark.parametrize("url", ["http://hook:9000/", "https://hook/a?b=1&c=2|d", r"http://hook/\1"])
def test_address_of_the_webhook_reaches_alertmanager_as_it_is(url: str, tmp_path: Path) -> None:
    alertmanager = SERVICES["alertmanager"]
    assert alertmanager["entrypoint"] == ["/bin/sh", "-c"]
    (command,) = alertmanager["command"]
    command = command.replace("$$", "$").replace("/tmp/", f"{tmp_path}/").replace("/etc/alertmanager", str(DEPLOY))
    command = command.replace(f"{DEPLOY}/", f"{DEPLOY}/alertmanager/").replace("exec /bin/alertmanager", "echo")
    environment = {"ALERT_WEBHOOK_URL": url, "PATH": "/usr/bin:/bin"}
    subprocess.run(["/bin/sh", "-c", command], env=environment, check=True, capture_output=True)
    (receiver,) = yaml.safe_load((tmp_path / "alertmanager.yml").read_text("utf-8"))["receivers"]
    assert receiver["webhook_configs"][0]["url"] == url


def test_secrets_are_not_committed() -> None:
    assert (DEPLOY / ".gitignore").read_text("utf-8") == ".env\nsecrets/\n"


def test_tokens_are_those_that_the_service_looks_for_and_prometheus_has_only_its_own() -> None:
    assert {name: secret["file"] for name, secret in COMPOSE["secrets"].items()} == {
        scope: f"./secrets/{scope}" for scope in (Scope.WRITE, Scope.READ, Scope.METRICS)
    }
    assert set(SERVICES["service"]["secrets"]) == set(COMPOSE["secrets"])
    # Where compose puts secrets.
    assert SERVICES["service"]["environment"]["SPARSITY_MONITOR_TOKENS_DIRECTORY"] == "/run/secrets"
    assert SERVICES["prometheus"]["secrets"] == [Scope.METRICS]
    assert {name for name, service in SERVICES.items() if "secrets" in service} == {"service", "prometheus"}


def test_a_certificate_changes_nothing_but_what_is_encrypted() -> None:
    encrypted = yaml.safe_load((DEPLOY / "compose.tls.yaml").read_text("utf-8"))
    service, prometheus = encrypted["services"]["service"], encrypted["services"]["prometheus"]
    assert set(encrypted["services"]) == {"service", "prometheus"}
    (mount,) = service["volumes"]
    source, target, mode = mount.split(":")
    assert mode == "ro"
    given = service["environment"]
    assert (given["SPARSITY_MONITOR_TLS_CERTIFICATE"], given["SPARSITY_MONITOR_TLS_KEY"]) == (
        f"{target}/tls.crt",
        f"{target}/tls.key",
    )
    assert given["SPARSITY_MONITOR_SERVICE_URL"].startswith("${SERVICE_URL:-https://")
    # Prometheus has no use for the key.
    assert prometheus["secrets"] == ["ca"]
    assert encrypted["secrets"] == {"ca": {"file": f"{source}/ca.crt"}}
    (configuration,) = prometheus["volumes"]
    plain, tls = (
        yaml.safe_load((DEPLOY / path).read_text("utf-8"))
        for path in ("prometheus/prometheus.yml", configuration.partition(":")[0])
    )
    assert any(each.endswith(configuration.partition(":")[2]) for each in SERVICES["prometheus"]["volumes"])
    (job,) = tls["scrape_configs"]
    assert job.pop("scheme") == "https"
    assert job.pop("tls_config")["ca_file"] == "/run/secrets/ca"
    assert tls == plain
