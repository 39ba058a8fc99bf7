"""What panels say of weight syncs and norms, against promtool, with numbers that can be worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from monitor.grafana.promql.ratios import (
    CHANGED_RATIO,
    Level,
    as_bitmask,
    as_indices,
    bitmask_from,
    dense_from,
    relative_norm,
)
from tests.grafana.alerts.rule_cases import RUN, run
from tests.grafana.binaries import binary, check

_SYNCS = {"between": "syncs"}
_SERIES = {
    run("run_weights"): "8000x5",
    run("run_frozen_weights"): "3000x5",
    run("run_sync_changed_weights", **_SYNCS): "50x5",
    run("run_update_norm"): "3x5",
    run("run_base_norm"): "60x5",
    **{
        run(f"group_squared_{name}_norm", layer=layer, module=module): f"{value}x5"
        for layer, module, update, base in [
            ("00", "q", 9, 100),
            ("00", "v", 16, 300),
            ("01", "q", 1, 0),
            ("-", "e", 4, 16),
        ]
        for name, value in (("update", update), ("base", base))
    },
}


def _returns(expected: dict[str, dict[str, float]], directory: Path, **series: str) -> None:
    inputs = [{"series": key, "values": value} for key, value in (_SERIES | series).items()]
    test: dict[str, Any] = {"interval": "1m", "input_series": inputs, "promql_expr_test": []}
    for expr, values in expected.items():
        samples = [{"labels": f"{{{RUN}{labels}}}", "value": round(value, 6)} for labels, value in values.items()]
        asked = {"expr": f"round({expr}, 0.000001)", "eval_time": "3m", "exp_samples": samples}
        test["promql_expr_test"].append(asked)
    (directory / "tests.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    check(binary("promtool"), "test", "rules", directory / "tests.yml")


def test_crossovers_are_where_the_bytes_of_two_ways_are_equal(tmp_path: Path) -> None:
    weights, trained = 8000, 5000
    bitmask, dense = weights / 32, weights * 15 / 16
    assert 6 * bitmask == weights / 8 + 2 * bitmask
    assert weights / 8 + 2 * dense == 2 * weights
    # More than all that trains: this run never changes so many.
    assert dense > trained
    _returns({bitmask_from(): {"": bitmask / trained}, dense_from(): {}}, tmp_path)
    all_train = {run("run_frozen_weights"): "0x5"}
    _returns({bitmask_from(): {"": 1 / 32}, dense_from(): {"": 15 / 16}}, tmp_path, **all_train)


def test_ratio_and_norms_are_what_they_are_by_hand(tmp_path: Path) -> None:
    _returns(
        {
            CHANGED_RATIO.at(Level.RUN): {', between="syncs"': 50 / 5000},
            relative_norm(Level.RUN): {"": 3 / 60},
            # Not the mean of ratios; and a base of zeros has none.
            relative_norm(Level.LAYER): {', layer="00"': math.sqrt(25 / 400), ', layer="-"': 0.5},
            relative_norm(Level.MODULE): {
                ', module="q"': math.sqrt(10 / 100),
                ', module="v"': math.sqrt(16 / 300),
                ', module="e"': 0.5,
            },
        },
        tmp_path,
    )


def test_the_ways_of_a_transfer_are_drawn_where_bytes_are_known(tmp_path: Path) -> None:
    # Not of 32-bit weights: as long as the service does not say what all of them take.
    _returns({as_indices(): {}, as_bitmask(): {}}, tmp_path)
    drawn = {as_indices(): {', between="syncs"': 300.0}, as_bitmask(): {', between="syncs"': 8000 / 8 + 100}}
    _returns(drawn, tmp_path, **{run("run_sync_dense_bytes", **_SYNCS): "16000x5"})
