"""Everything that is generated into deploy/, by its path there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards import all_dashboards
from monitor.grafana.files import kubernetes, provisioning
from monitor.grafana.files.lint_exceptions import lint_exceptions
from monitor.grafana.files.runbook import runbook
from monitor.grafana.files.text import as_json, as_yaml
from monitor.grafana.rules.prometheus_rules import prometheus_rules


def generated_files(settings: AlertSettings) -> dict[str, str]:
    """Return path → text of each file."""
    dashboards = all_dashboards(settings)
    return {
        "runbook.md": runbook(settings),
        "prometheus/rules/sparsity-monitor.yml": as_yaml(prometheus_rules(settings)),
        "grafana/dashboards/.lint": as_yaml(lint_exceptions(settings)),
        **{f"grafana/dashboards/{name}": as_json(dashboard) for name, dashboard in dashboards.items()},
        "grafana/provisioning/datasources/sparsity-monitor.yaml": as_yaml(provisioning.data_sources()),
        "grafana/provisioning/dashboards/sparsity-monitor.yaml": as_yaml(provisioning.dashboard_provider()),
        "grafana/provisioning/alerting/rules.yaml": as_yaml(provisioning.alert_rules(settings)),
        "grafana/provisioning/alerting/contact-points.yaml": as_yaml(provisioning.contact_points()),
        "kubernetes/prometheus-rule.yaml": as_yaml(kubernetes.prometheus_rule(settings)),
        "kubernetes/grafana-dashboards.yaml": as_yaml(*kubernetes.dashboard_config_maps(settings)),
    }


def write_files(directory: Path, files: Mapping[str, str]) -> list[Path]:
    """Write files below a directory, given as path → text, and return the paths of those that changed.

    Raises:
        OSError: a file cannot be written.
    """
    changed = []
    for name, text in files.items():
        path = directory / name
        if not path.is_file() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            changed.append(path)
    return changed
