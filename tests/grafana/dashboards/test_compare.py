"""What the Compare dashboard shows of runs that have one name, against promtool."""

from __future__ import annotations

from pathlib import Path

from monitor.grafana.dashboards.compare import compare
from tests.grafana.alerts.rule_cases import HEALTHY, Series, always, run
from tests.grafana.promql.evaluated import returns

MATRIX, CHANGED_RATIO = [
    each
    for each in compare()["panels"]
    if each["title"] in {"Cumulative density, module × run", "Changed ratio per weight sync"}
]


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


def test_runs_keep_their_order_and_so_their_colours_where_they_differ_in_what_is_compared(tmp_path: Path) -> None:
    syncs = {run("run_sync_changed_weights", between="syncs"): always(8)}
    other = {
        key.replace('run="r"', 'run="r2"'): values
        for key, values in {**HEALTHY, run("run_sync_changed_weights", between="observations"): always(80)}.items()
    }
    # Sorted by its labels, of which the first is to tell the run.
    labels = [f'{{id="{each}", span="{span}"}}' for each, span in (("r", "syncs"), ("r2", "observations"))]
    returns(
        f"group by (between, id, span) ({CHANGED_RATIO['targets'][0]['expr']})",
        {**syncs, **other},
        [{"labels": each, "value": 1} for each in labels],
        tmp_path,
    )
