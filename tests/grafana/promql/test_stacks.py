"""What is asked by layer and by module keeps the stacks of a model apart, as Prometheus works it out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.promql.ratios import CUMULATIVE_SPARSITY, Level, Reading, Recorded, WrittenOut
from monitor.grafana.rules.prometheus_rules import prometheus_rules
from monitor.observe.weights.groups import GroupTable
from monitor.report.messages.conversion import group_messages
from monitor.service.quantities.labels import group_labels
from tests.grafana.alerts.rule_cases import RUN, run
from tests.grafana.binaries import binary, check

_METRICS = Path(__file__).parents[3] / "monitor/service/METRICS.md"
# A vision-language model: (name, weights, changed). The whole language model has changed, and nothing of the rest.
_PARAMETERS = [
    ("model.visual.patch_embed.weight", 50, 0),
    ("model.visual.blocks.0.attn.qkv.weight", 400, 0),
    ("model.visual.blocks.1.attn.qkv.weight", 400, 0),
    ("model.language_model.layers.0.self_attn.q_proj.weight", 60, 60),
    ("model.language_model.layers.0.mlp.up_proj.weight", 40, 40),
    ("model.language_model.layers.1.self_attn.q_proj.weight", 60, 60),
]
_BY_LAYER = {
    "-": 1.0,
    "visual 00": 1.0,
    "visual 01": 1.0,
    "language_model 00": 0.0,
    "language_model 01": 0.0,
}
_BY_MODULE = {"visual.patch_embed": 1.0, "visual.attn.qkv": 1.0, "self_attn.q_proj": 0.0, "mlp.up_proj": 0.0}


def _series() -> dict[str, str]:
    table = GroupTable.build((name, weights, False) for name, weights, _ in _PARAMETERS)
    labels = group_labels(group_messages(table.groups))
    changed = [0] * len(labels)
    for name, _, count in _PARAMETERS:
        changed[table.index[name]] += count
    series = {}
    for (layer, module), group, count in zip(labels, table.groups, changed, strict=True):
        series[run("group_weights", layer=layer, module=module)] = f"{group.weights}x20"
        series[run("group_changed_weights", layer=layer, module=module)] = f"{count}x20"
        series[run("group_frozen_weights", layer=layer, module=module)] = "0x20"
    return series


def _returns(expr: str, samples: dict[str, float], directory: Path) -> None:
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in _series().items()],
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": "15m",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
            }
        ],
    }
    (directory / "rules.yml").write_text(yaml.safe_dump(prometheus_rules(AlertSettings())))
    (directory / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [test]}))
    check(binary("promtool"), "test", "rules", directory / "tests.yml")


@pytest.mark.parametrize("reading", [Recorded(), WrittenOut()], ids=["recorded", "written-out"])
@pytest.mark.parametrize(
    ("level", "label", "expected"),
    [(Level.LAYER, "layer", _BY_LAYER), (Level.MODULE, "module", _BY_MODULE)],
    ids=["layer", "module"],
)
def test_ratios_are_of_one_stack(
    reading: Reading, level: Level, label: str, expected: dict[str, float], tmp_path: Path
) -> None:
    samples = {f'{{{RUN}, {label}="{value}"}}': ratio for value, ratio in expected.items()}
    expr = reading.now(CUMULATIVE_SPARSITY, level)
    # A recorded series has a name of its own.
    _returns(f"sum without (__name__) ({expr})", samples, tmp_path)


def test_the_query_that_is_recommended_is_of_one_stack(tmp_path: Path) -> None:
    recommended = r"```\n# Cumulative sparsity of each layer of a run: of its trained weights\n(.*?)```"
    (query,) = re.findall(recommended, _METRICS.read_text(), re.S)
    samples = {f'{{layer="{layer}"}}': ratio for layer, ratio in _BY_LAYER.items()}
    _returns(query.replace('run="…"', 'run="r"'), samples, tmp_path)
