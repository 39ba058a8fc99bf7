"""What the Compare dashboard shows of several runs, against promtool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monitor.grafana.dashboards.compare import compare
from tests.grafana.alerts.rule_cases import HEALTHY, Series, always, run
from tests.grafana.promql.evaluated import returns

PANELS = compare()["panels"]
MATRIX = next(each for each in PANELS if each["title"] == "Cumulative density, module × run")
LINES = [each for each in PANELS if each["type"] == "timeseries"]

# What a healthy run may report besides, several of which share a panel.
_ALL: Series = {
    run("run_touched_weights"): always(200),
    run("run_update_norm"): always(1),
    run("run_base_norm"): always(10),
    run("run_sync_changed_weights", between="syncs"): always(8),
    run("run_sync_changed_weights", between="observations"): always(80),
    run("run_reference_weights", reference="data"): always(200),
    run("run_reference_intersection_weights", reference="data"): always(80),
    run("run_reference_expected_intersection_weights", reference="data"): always(40),
    run("run_training_metric", metric="loss"): always(1),
}


def _groups(changed: int) -> Series:
    groups = [(layer, module) for layer in ("00", "01", "02", "03") for module in ("attn", "mlp")]
    return {run("group_changed_weights", layer=layer, module=module): always(changed) for layer, module in groups}


def test_runs_of_one_name_have_columns_of_their_own(tmp_path: Path) -> None:
    other = {key.replace('run="r"', 'run="r2"'): values for key, values in {**HEALTHY, **_groups(75)}.items()}
    samples = [
        {"labels": f'{{module="{module}", name="{run_id} · grpo"}}', "value": density}
        for module in ("attn", "mlp")
        for run_id, density in (("r", 0.5), ("r2", 0.75))
    ]
    returns(MATRIX["targets"][0]["expr"], {**_groups(50), **other}, samples, tmp_path)


@pytest.mark.parametrize("panel", LINES, ids=lambda panel: str(panel["title"]))
def test_a_run_keeps_its_place_and_so_its_colour_in_panels_that_only_others_have(panel: Any, tmp_path: Path) -> None:
    (query,) = panel["targets"]
    assert query["legendFormat"] == "{{name}}"
    known = {'sparsity_monitor_run_info{job="sparsity-monitor", instance="s", run="a", name="another"}': always(1)}
    expr = query["expr"]
    in_order = [{"labels": f'{{id="{run_id}"}}', "value": 1} for run_id in ("a", "r")]
    returns(f"count by (id) ({expr})", {**_ALL, **known}, in_order, tmp_path)
    # One without a value is not drawn.
    returns(f"count by (id) (({expr}) == ({expr}))", {**_ALL, **known}, in_order[1:], tmp_path)


def test_a_panel_that_no_run_has_says_so(tmp_path: Path) -> None:
    logged = next(each for each in LINES if each["title"] == "$metric")
    returns(logged["targets"][0]["expr"], {}, [], tmp_path)
