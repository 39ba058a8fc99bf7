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

_SHOWN_SECONDS = 60
# With a scrape per second, of which Grafana takes four for a rate.
_OF_GRAFANA = {"__rate_interval": "4s", "__range": f"{_SHOWN_SECONDS}s"}


# Shown only to runs that change most of their weights from one sync to the next, and to those that ask their engine.
_OF_SOME_RUNS = {"above: dense takes less", "compared", "not served as trained", "trained", "served"}
# The service here has no certificate.
_OF_SOME_SERVICES = {"Certificate"}


def boards() -> dict[str, dict[str, Any]]:
    """Return the written dashboards by their uid."""
    read = [json.loads(path.read_text("utf-8")) for path in DASHBOARDS.glob("*.json")]
    return {board["uid"]: board for board in read}


def without_data(prometheus: Prometheus, board: dict[str, Any], variables: Mapping[str, str]) -> list[str]:
    """Return the panels of a dashboard, with their queries, that show nothing."""
    return [
        f"{panel['title']}: {target['expr']}"
        for panel in board["panels"]
        if panel["title"] not in _OF_SOME_SERVICES
        for target in panel.get("targets", [])
        if target["legendFormat"] not in _OF_SOME_RUNS and not _has_data(prometheus, target, variables)
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
    for name, value in {**_OF_GRAFANA, **everything, **variables}.items():
        text = text.replace(f"${name}", value)
    # Groups of a label_replace are no variables.
    assert re.search(r"\$(?!\{\d\})", text) is None, text
    return text


def choices(prometheus: Prometheus, variable: dict[str, Any], variables: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return (text, value) of what a variable offers."""
    query = filled_in(variable["query"], variables)
    function, argument = re.fullmatch(r"(\w+)\((.+)\)", query).groups()  # type: ignore[union-attr]
    if function == "label_values":
        selector, _, label = argument.rpartition(", ")
        values = {labels[label] for labels, _ in prometheus.query(selector)}
        return {(value, value) for value in values}
    found = (offered(variable["regex"], text) for text in _written(prometheus.query(argument)))
    return {choice for choice in found if choice}


def offered(regex: str, written: str) -> tuple[str, str] | None:
    """Return (text, value) that a variable makes of what query_result wrote down, nothing where it does not match."""
    # Named groups as JavaScript writes them.
    match = re.search(re.sub(r"\(\?<(\w+)>", r"(?P<\1>", regex.strip("/")), written)
    if match is None:
        return None
    named = match.groupdict()
    return (named["text"], named["value"]) if named else (match[1], match[1])


def _written(samples: Iterable[tuple[dict[str, str], float]]) -> Iterable[str]:
    """As query_result writes a sample down."""
    for labels, value in samples:
        named = ",".join(f'{name}="{text}"' for name, text in labels.items() if name != "__name__")
        yield f"{labels.get('__name__', '')}{{{named}}} {value:g} 1700000000000"
