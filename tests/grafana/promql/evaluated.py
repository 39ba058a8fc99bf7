"""What a panel shows, as promtool works it out from the series of a healthy run and those that a test adds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.grafana.alerts.rule_cases import HEALTHY, Series
from tests.grafana.binaries import binary, check


def returns(expr: str, series: Series, samples: list[dict[str, Any]], directory: Path) -> None:
    """Check what an expression returns after ten minutes, with "All" chosen above."""
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": value} for key, value in {**HEALTHY, **series}.items()],
        "promql_expr_test": [
            {
                "expr": re.sub(r"\$\w+", ".+", expr),
                "eval_time": "10m",
                "exp_samples": samples,
            },
        ],
    }
    (directory / "tests.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    check(binary("promtool"), "test", "rules", directory / "tests.yml")
