"""The states of a run as numbers, names and colours: what tables and timelines can show."""

from __future__ import annotations

from typing import Any

from monitor.grafana.dashboards.panels import Steps
from monitor.grafana.promql.metric import Matchers, metric

COLOURS = {
    "running": "green",
    "stalled": "orange",
    "lost": "red",
    "failed": "dark-red",
    "finished": "blue",
    "stopped": "light-blue",
    "preempted": "purple",
}
"""As in the wire contract: RunSummary.State."""

_CODES = {state: code for code, state in enumerate(COLOURS, start=1)}

STEPS: Steps = [(None, "text"), *((float(code), COLOURS[state]) for state, code in _CODES.items())]


def codes(matchers: Matchers) -> str:
    """Return the state of each run as a number."""
    coded = " or ".join(f"{code} * ({in_state(state, matchers)} == 1)" for state, code in _CODES.items())
    return f"sum without (state) ({coded})"


def in_state(state: str, matchers: Matchers) -> str:
    """Return 1 for each run that is in the state, 0 for the others."""
    return metric("run_state", {**matchers, "state": f'="{state}"'})


def names() -> dict[str, Any]:
    """Return a value mapping that makes names of the numbers again."""
    options = {str(code): {"text": state, "color": COLOURS[state], "index": code} for state, code in _CODES.items()}
    return {"type": "value", "options": options}
