"""Names of runs on their way from the callback, through service and Prometheus, to the variable of a dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monitor import SparsityCallback
from monitor.grafana.addresses import COMPARE_UID, RUN_UID
from tests.end_to_end.panel_queries import boards, choices
from tests.end_to_end.prometheus import Prometheus
from tests.eventually import eventually
from tests.grafana.dashboards.nasty_names import NASTY_NAMES
from tests.service.running import ServiceProcess
from tests.tiny import common_arguments, sft_trainer

# They share a service and a Prometheus.
pytestmark = pytest.mark.xdist_group("main job")


def test_every_name_arrives_whole(model: Path, service: ServiceProcess, prometheus: Prometheus, tmp_path: Path) -> None:
    expected = set()
    for number, name in enumerate(NASTY_NAMES):
        callback = SparsityCallback(service.client.listening.grpc_address, name)
        sft_trainer(model, common_arguments(tmp_path / str(number), max_steps=1), [callback]).train()
        assert callback.run_id is not None
        expected.add((f"{_first(callback.run_id)} · {name}", callback.run_id))
    for variable in (_variable(RUN_UID, "run"), _variable(COMPARE_UID, "runs")):
        eventually(lambda asked=variable: choices(prometheus, asked, {}) >= expected)  # type: ignore[misc]


def _variable(uid: str, name: str) -> dict[str, Any]:
    (variable,) = [each for each in boards()[uid]["templating"]["list"] if each["name"] == name]
    return dict(variable)


def _first(run_id: str) -> str:
    """Return what tells the run apart: eight digits could be a date, and such an id is shown whole."""
    end = run_id.rpartition("-")[2]
    return run_id if end.isdecimal() else end
