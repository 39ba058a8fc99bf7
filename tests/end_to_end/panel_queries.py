"""Asks Prometheus what the dashboards ask, with the variables filled in as Grafana fills them in."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.end_to_end.prometheus import Prometheus

DASHBOARDS = Path(__file__).parents[2] / "deploy/grafana/dashboards"

# With a scrape per second; Grafana makes it four scrape intervals.
_RATE_INTERVAL = "4s"
_SHOWN_SECONDS = 60


def boards() -> dict[str, dict[str, Any]]:
    """Return the written dashboards by their uid."""
    read = [json.loads(path.read_text("utf-8")) for path in DASHBOARDS.glob("*.json")]
    return {board["uid"]: board for board in read}


def without_data(prometheus: Prometheus, board: dict[str, Any], variables: Mapping[str, str]) -> list[str]:
    """Return the panels of a dashboard, with their queries, that show nothing."""
    return [
        f"{panel['title']}: {target['expr']}"
        for panel in board["panels"]
        for target in panel.get("targets", [])
        if not _has_data(prometheus, target, variables)
    ]


def _has_data(prometheus: Prometheus, target: dict[str, Any], variables: Mapping[str, str]) -> bool:
    promql = filled_in(target["expr"], variables)
    if target.get("instant"):
        return any(not math.isnan(value) for _, value in prometheus.query(promql))
    now = time.time()
    shown = prometheus.query_range(promql, now - _SHOWN_SECONDS, now, 1)
    return any(not math.isnan(value) for series in shown for value in series)


def filled_in(text: str, variables: Mapping[str, str]) -> str:
    """Replace the variables, those that a dashboard leaves at "All" included."""
    everything = dict.fromkeys(("job", "instance", "layer", "module", "reference", "metric", "runs", "run"), ".+")
    for name, value in {"__rate_interval": _RATE_INTERVAL, **everything, **variables}.items():
        text = text.replace(f"${name}", value)
    assert "$" not in text, text
    return text


def choices(prometheus: Prometheus, variable: dict[str, Any], variables: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return (text, value) of what a variable offers."""
    query = filled_in(variable["query"], variables)
    function, argument = re.fullmatch(r"(\w+)\((.+)\)", query).groups()  # type: ignore[union-attr]
    if function == "label_values":
        selector, _, label = argument.rpartition(", ")
        values = {labels[label] for labels, _ in prometheus.query(selector)}
        return {(value, value) for value in values}
    # Named groups as JavaScript writes them.
    pattern = re.sub(r"\(\?<(\w+)>", r"(?P<\1>", variable["regex"].strip("/"))
    found = (re.search(pattern, text) for text in _written(prometheus.query(argument)))
    return {_offered(match) for match in found if match}


def _offered(match: re.Match[str]) -> tuple[str, str]:
    named = match.groupdict()
    return (named["text"], named["value"]) if named else (match[1], match[1])


def _written(samples: Iterable[tuple[dict[str, str], float]]) -> Iterable[str]:
    """As query_result writes a sample down."""
    for labels, value in samples:
        named = ",".join(f'{name}="{text}"' for name, text in labels.items() if name != "__name__")
        yield f"{labels['__name__']}{{{named}}} {value:g} 1700000000000"
