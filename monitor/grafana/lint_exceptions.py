"""Where the rules of Grafana's dashboard-linter do not hold, and why. The linter reads it beside the dashboards."""

from __future__ import annotations

from typing import Any

_RUN_IS_ITS_ID = (
    "A run is known by its label run, which stays the same when the service moves to another instance: choosing an "
    "instance would cut a run in two. The service dashboard, which is about instances, has the variable."
)
_ABOUT_RUNS = ("sparsity-monitor / Fleet", "sparsity-monitor / Run", "sparsity-monitor / Compare")


def lint_exceptions() -> dict[str, Any]:
    """Return the content of the file .lint."""
    entries = [{"dashboard": title} for title in _ABOUT_RUNS]
    rules = ("template-instance-rule", "target-instance-rule")
    return {"exclusions": {rule: {"reason": _RUN_IS_ITS_ID, "entries": entries} for rule in rules}}
