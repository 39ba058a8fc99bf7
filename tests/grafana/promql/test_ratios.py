"""The ratios against promtool, with numbers that can be worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.promql.ratios import (
    CUMULATIVE_SPARSITY,
    RECORDED,
    STEP_SPARSITY,
    WHOLE_MODEL_CUMULATIVE_SPARSITY,
    Level,
    Recorded,
    WrittenOut,
    z_score,
)
from monitor.grafana.rules.prometheus_rules import prometheus_rules
from tests.grafana.alerts.rule_cases import RUN, run
from tests.grafana.binaries import binary, check

# Two layers, two modules: (weights, frozen, changed, step-changed, |R|, |M ∩ R|, expected |M ∩ R|).
_GROUPS = {
    ("00", "attn"): (100, 0, 10, 1, 20, 6, 2),
    ("00", "mlp"): (400, 100, 30, 3, 60, 18, 6),
    ("01", "attn"): (100, 0, 50, 5, 20, 10, 10),
    ("01", "mlp"): (300, 0, 0, 0, 60, 0, 0),
    # What cannot be divided has no ratio: parameters of size zero, and those that are frozen.
    ("01", "empty"): (0, 0, 0, 0, 0, 0, 0),
    ("01", "frozen"): (1000, 1000, 0, 0, 0, 0, 0),
}
_NAMES = ("weights", "frozen_weights", "changed_weights", "step_changed_weights")
_REFERENCES = tuple(f"reference_{name}weights" for name in ("", "intersection_", "expected_intersection_"))


def _series() -> dict[str, str]:
    series: dict[str, str] = {}
    for (layer, module), counts in _GROUPS.items():
        for name, value in zip((*_NAMES, *_REFERENCES), counts, strict=True):
            labels = {"layer": layer, "module": module} | ({"reference": "R"} if name in _REFERENCES else {})
            series[run(f"group_{name}", **labels)] = f"{value}x20"
    for index, name in enumerate((*_NAMES, *_REFERENCES)):
        labels = {"reference": "R"} if name in _REFERENCES else {}
        series[run(f"run_{name}", **labels)] = f"{sum(counts[index] for counts in _GROUPS.values())}x20"
    # Ten steps a minute, of which each costs 0.3 s of the training thread: a twentieth of the time.
    series |= {run("run_step"): "0+10x20", run("run_stride_steps"): "2x20"}
    return series | {run("run_host_seconds"): "0.6x20", run("run_device_seconds"): "1.2x20"}


EXPECTED: dict[str, dict[tuple[tuple[str, str], ...], float]] = {
    "run:sparsity_monitor_cumulative_sparsity:ratio": {(): 1 - 90 / 800},
    "run_layer:sparsity_monitor_cumulative_sparsity:ratio": {
        (("layer", "00"),): 0.9,
        (("layer", "01"),): 0.875,
    },
    "run_module:sparsity_monitor_cumulative_sparsity:ratio": {
        (("module", "attn"),): 0.7,
        (("module", "mlp"),): 0.95,
    },
    "run_layer_module:sparsity_monitor_cumulative_sparsity:ratio": {
        (("layer", layer), ("module", module)): 1 - counts[2] / (counts[0] - counts[1])
        for (layer, module), counts in _GROUPS.items()
        if counts[0] > counts[1]
    },
    "run:sparsity_monitor_whole_model_cumulative_sparsity:ratio": {(): 1 - 90 / 1900},
    "run:sparsity_monitor_step_sparsity:ratio": {(): 1 - 9 / 800},
    "run:sparsity_monitor_reference_overlap_o1:ratio": {(("reference", "R"),): 34 / 90},
    "run:sparsity_monitor_reference_overlap_o2:ratio": {(("reference", "R"),): 34 / 160},
    "run:sparsity_monitor_reference_chance_o1:ratio": {(("reference", "R"),): 18 / 90},
    "run:sparsity_monitor_reference_chance_o2:ratio": {(("reference", "R"),): 18 / 160},
    "run:sparsity_monitor_reference_jaccard:ratio": {(("reference", "R"),): 34 / (90 + 160 - 34)},
    "run:sparsity_monitor_reference_lift:ratio": {(("reference", "R"),): 34 / 18},
    "run_layer:sparsity_monitor_reference_lift:ratio": {
        (("layer", "00"), ("reference", "R")): 3.0,
        (("layer", "01"), ("reference", "R")): 1.0,
    },
    "run:sparsity_monitor_host_share:ratio": {(): 0.05},
    "run:sparsity_monitor_device_share:ratio": {(): 0.1},
}


def _expectation(record: str, expr: str) -> dict[str, Any]:
    samples = [
        {
            "labels": "{" + RUN + "".join(f', {name}="{value}"' for name, value in labels) + "}",
            "value": round(value, 6),
        }
        for labels, value in EXPECTED[record].items()
    ]
    # promtool compares numbers exactly.
    return {"expr": f"round({expr}, 0.000001)", "eval_time": "15m", "exp_samples": samples}


@pytest.mark.parametrize("reading", [Recorded(), WrittenOut()], ids=["recorded", "written-out"])
def test_ratios_are_what_they_are_by_hand(reading: Recorded | WrittenOut, tmp_path: Path) -> None:
    recorded = {ratio.record(level): (ratio, level) for ratio, levels in RECORDED.items() for level in levels}
    expectations = [_expectation(record, reading.now(*recorded[record])) for record in EXPECTED]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(prometheus_rules(AlertSettings())))
    inputs = [{"series": key, "values": value} for key, value in _series().items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": expectations}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [test]}))
    check(binary("promtool"), "test", "rules", tmp_path / "tests.yml")


def test_weights_that_nothing_can_be_said_of_are_not_in_the_whole_model(tmp_path: Path) -> None:
    lost = {run("run_unmeasured_weights"): "_x10 100x10"}
    ratio = WHOLE_MODEL_CUMULATIVE_SPARSITY.at(Level.RUN)
    inputs = [{"series": key, "values": value} for key, value in (_series() | lost).items()]
    expectations = [
        {
            "expr": f"round({ratio}, 0.000001)",
            "eval_time": at,
            "exp_samples": [{"labels": "{" + RUN + "}", "value": round(1 - 90 / measured, 6)}],
        }
        for at, measured in {"5m": 1900, "15m": 1800}.items()
    ]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": expectations}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    check(binary("promtool"), "test", "rules", tmp_path / "tests.yml")


def test_overlap_is_as_many_standard_deviations_from_chance_as_by_hand(tmp_path: Path) -> None:
    # Of 20 in 100, 60 in 300 and 20 in 100: a fifth of the trained weights of each group is in the mask.
    spread = [(100, 10), (300, 30), (100, 50)]
    variance = sum(changed * 0.2 * 0.8 * (trained - changed) / (trained - 1) for trained, changed in spread)
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": value} for key, value in _series().items()],
        "promql_expr_test": [
            {
                "expr": f"round({z_score()}, 0.000001)",
                "eval_time": "15m",
                "exp_samples": [
                    {"labels": f'{{{RUN}, reference="R"}}', "value": round((34 - 18) / math.sqrt(variance), 6)}
                ],
            }
        ],
    }
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    check(binary("promtool"), "test", "rules", tmp_path / "tests.yml")


def test_every_level_of_sparsity_is_recorded() -> None:
    assert set(RECORDED[CUMULATIVE_SPARSITY]) == set(RECORDED[STEP_SPARSITY]) == set(Level)
