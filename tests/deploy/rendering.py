"""Renders the Helm chart with Helm's own engine. `python -m tests.deploy.rendering` reads one request and answers it.

In a process of its own: the engine is written in Go, whose runtime starts threads, and other tests fork.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import yaml

from tests.deploy.test_generated import DEPLOY

CHART = DEPLOY / "helm" / "sparsity-monitor"
_ROOT = DEPLOY.parent


def render(values: dict[str, Any], name: str = "sparsity-monitor") -> list[dict[str, Any]]:
    """Return the manifests that Helm would send to a cluster."""
    return [
        manifest
        for path, text in sorted(_answered({"render": values, "name": name}).items())
        if not path.endswith(".txt")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]


def lint() -> list[dict[str, Any]]:
    """Return what `helm lint` has to say."""
    messages: list[dict[str, Any]] = _answered({"lint": {}})["messages"]
    return messages


def refusals(values: list[dict[str, Any]]) -> list[str]:
    """Return what the schema has against each of these values, nothing where it takes them."""
    said: list[str] = _answered({"validate": values})["errors"]
    return said


def _answered(request: dict[str, Any]) -> dict[str, Any]:
    if find_spec("helm_python") is None:
        pytest.skip('helm-python-sdk is not installed: pip install ".[dev]"')
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, check=False, cwd=_ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _answer(request: dict[str, Any]) -> Any:
    import helm_python

    if "lint" in request:
        return helm_python.lint(CHART, strict=True)
    with helm_python.Chart.load(CHART) as chart:
        if "render" in request:
            values = chart.merge_values(request["render"])
            chart.validate_schema(values)
            return chart.render(values, name=request["name"], namespace="sparsity-monitor")
        return {"errors": [_refusal(chart, values) for values in request["validate"]]}


def _refusal(chart: Any, values: dict[str, Any]) -> str:
    import helm_python

    try:
        chart.validate_schema(chart.merge_values(values))
    except helm_python.HelmError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))
