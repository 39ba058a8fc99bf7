"""Prometheus with our rules, Alertmanager with our routes, and somebody who takes its messages."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.rules.prometheus_rules import prometheus_rules
from tests.end_to_end.prometheus import Prometheus, listening, running_prometheus
from tests.eventually import eventually

DEPLOY = Path(__file__).parents[2] / "deploy"

# The only place where times are scaled down: minutes and hours become seconds. What a ratio has to be stays as it is,
# except that a model of thousands of weights is watched in no time and trained in less: there, watching is expensive.
QUICK = AlertSettings(
    warmup_steps=10,
    warmup_seconds=2,
    hold_seconds=2,
    step_recent_seconds=3,
    step_history_seconds=60,
    lift_history_seconds=120,
    inert_seconds=60,
    dropped_seconds=60,
    state_hold_seconds=1,
    # Prometheus starts beside much else, and has scraped nothing at first.
    down_seconds=20,
    host_share=0.9,
)
_QUICK_PROMETHEUS = {
    "scrape_interval: 15s": "scrape_interval: 1s",
    "evaluation_interval: 15s": "evaluation_interval: 1s",
}
# As in the file, more than an evaluation passes before something is told: two alerts about one thing can come one
# evaluation after the other, because new values arrive in between.
_QUICK_ALERTMANAGER = {"group_wait: 30s": "group_wait: 4s", "group_interval: 5m": "group_interval: 1s"}


class Webhook:
    """Takes the messages of Alertmanager."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def alerts(self, status: str) -> dict[tuple[str, str], dict[str, str]]:
        """Return (alert, run) → texts of what was told to fire, or to be resolved."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("run", "")): alert["annotations"]
            for message in list(self.messages)
            for alert in message["alerts"]
            if alert["status"] == status
        }


@dataclass(frozen=True)
class Watching:
    prometheus: Prometheus
    webhook: Webhook

    def firing(self) -> set[tuple[str, str]]:
        """Return (alert, run) of all that fire now, according to Prometheus."""
        found = self.prometheus.query('ALERTS{alertstate="firing"}')
        return {(labels["alertname"], labels.get("run", "")) for labels, _ in found}


@contextmanager
def watching(directory: Path, service_address: str) -> Iterator[Watching]:
    """Watch a service with the configuration files in deploy/, in which only times and addresses are others."""
    with ExitStack() as stack:
        webhook, webhook_url = stack.enter_context(_running_webhook())
        alertmanager = stack.enter_context(_running_alertmanager(directory, webhook_url))
        (directory / "rules.yml").write_text(yaml.safe_dump(prometheus_rules(QUICK)))
        text = (DEPLOY / "prometheus/prometheus.yml").read_text("utf-8")
        text = _replaced(text, _QUICK_PROMETHEUS)
        # The service that is watched asks nobody for it.
        (directory / "token").write_text("a token")
        places = {
            "service:8765": service_address,
            "alertmanager:9093": alertmanager,
            "/run/secrets/metrics": str(directory / "token"),
        }
        text = _replaced(text, {**places, "/etc/prometheus/rules/*.yml": str(directory / "rules.yml")})
        yield Watching(stack.enter_context(running_prometheus(directory, service_address, text)), webhook)


def _replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old} is not in the configuration once"
        text = text.replace(old, new)
    return text


@contextmanager
def _running_webhook() -> Iterator[tuple[Webhook, str]]:
    webhook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            webhook.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing: the messages are kept."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield webhook, f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _running_alertmanager(directory: Path, webhook_url: str) -> Iterator[str]:
    binary = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if binary is None:
        pytest.skip("prometheus-alertmanager is not installed; tests/run.sh installs it")
    text = (DEPLOY / "alertmanager/alertmanager.yml").read_text("utf-8")
    text = _replaced(text, {**_QUICK_ALERTMANAGER, "http://alerts.invalid/": webhook_url})
    configuration = directory / "alertmanager.yml"
    configuration.write_text(text)
    command = [binary, f"--config.file={configuration}", f"--storage.path={directory / 'alertmanager'}"]
    # Alone: it would wait for others to appear, and look for a network to find them on.
    command.append("--cluster.listen-address=")
    with listening(command, directory / "alertmanager.log") as address:
        eventually(lambda: _is_ready(address))
        yield address


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready", trust_env=False, verify=False).status_code == 200
    except httpx.TransportError:
        return False
