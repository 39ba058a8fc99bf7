"""What the Service health dashboard counts, against promtool."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.grafana.dashboards.service_health import service_health
from tests.grafana.alerts.rule_cases import Series, always
from tests.grafana.promql.evaluated import returns

QUERIES = {panel["title"]: panel["targets"][0]["expr"] for panel in service_health()["panels"] if "targets" in panel}
BUILD_INFO = 'sparsity_monitor_build_info{job="sparsity-monitor", instance="s", version="1"}'
FOREIGN: Series = {
    'up{job="node", instance="n"}': always(1),
    'scrape_duration_seconds{job="node", instance="n"}': always(9),
}


@pytest.mark.parametrize(
    ("series", "up"),
    [
        ({BUILD_INFO: always(1)}, 1),
        ({BUILD_INFO: "1x5 stale", 'up{job="sparsity-monitor", instance="s"}': "1x5 0x300"}, 0),
    ],
    ids=["up", "down"],
)
def test_targets_of_others_are_not_counted(series: Series, up: int, tmp_path: Path) -> None:
    returns(QUERIES["Up"], {**FOREIGN, **series}, [{"labels": "{}", "value": up}], tmp_path)


def test_scrapes_of_others_are_not_shown(tmp_path: Path) -> None:
    ours = 'scrape_duration_seconds{job="sparsity-monitor", instance="s"}'
    series = {**FOREIGN, BUILD_INFO: always(1), ours: always(0.1)}
    returns(QUERIES["Scrape time"], series, [{"labels": ours, "value": 0.1}], tmp_path)
