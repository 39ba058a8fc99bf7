"""Curves as OpenMetrics with timestamps, under the names of /metrics: `promtool tsdb create-blocks-from openmetrics`
makes blocks of them, in which the dashboards find the run as if it had been scraped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

from prometheus_client import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from monitor.commands.export.series import Point, Series
from monitor.notebook.interface import Json
from monitor.service.quantities.families import COUNTS, family

LOGGED = "metric:"
# The end of the year 9999, beyond which no time series database goes.
_LATEST = 253_402_300_799.0


class _Sample(NamedTuple):
    """A point that a time series can have."""

    time: float
    step: int
    value: float


_Value = Callable[[Json, _Sample], float | None]


def _as_it_is(_run: Json, sample: _Sample) -> float:
    return sample.value


def _thinned(key: str) -> _Value:
    # Of runs that were not, and with services that do not say so, there is none.
    return lambda run, _sample: (run.get("thinned") or {}).get(key)


# The name of a curve → the metrics that are made of it, without the prefix, and their values.
_METRICS: dict[str, dict[str, _Value]] = {
    **{name: {f"run_{name}_weights": _as_it_is} for name in COUNTS},
    **{name: {f"run_{name}": _as_it_is} for name in ("update_norm", "update_max_abs", "host_seconds")},
    **{name: {f"run_{name}": _as_it_is} for name in ("device_seconds", "monitor_bytes")},
    "stride": {"run_stride_steps": _as_it_is},
    "trained": {
        "run_info": lambda _run, _sample: 1,
        "run_step": lambda _run, sample: sample.step,
        "run_weights": lambda run, _sample: run["weights"],
        "run_frozen_weights": lambda run, sample: run["weights"] - sample.value,
        "run_thinned_until_step": _thinned("until_step"),
        "run_thinned_every": _thinned("every"),
        "run_thinned_observations": _thinned("removed"),
    },
}


def has_metric(field: str) -> bool:
    """Return whether /metrics has a curve: sparsities follow from its counts, and are computed by the dashboards."""
    return field in _METRICS or field.startswith(LOGGED)


def write_openmetrics(file: BinaryIO, run: Json, series: Iterable[Series]) -> None:
    """Write the series, those of one metric one after the other; what is no number is left out, and counted aloud."""
    left_out = 0
    before = ""
    for each in series:
        samples = _samples(each.points)
        left_out += len(each.points) - len(samples)
        for name, value in _METRICS.get(each.field, {"run_training_metric": _as_it_is}).items():
            values = [(at.time, value(run, at)) for at in samples]
            known = [(time, found) for time, found in values if found is not None]
            text = _exposed(name, _labels(name, each.field, run), known) if known else []
            # A metric is described once.
            file.writelines(line for line in text if name != before or not line.startswith(b"# "))
            before = name
    file.write(b"# EOF\n")
    if left_out:
        print(f"{left_out} points without a number, or without a time of their own, are left out", file=sys.stderr)


def _samples(points: Iterable[Point]) -> list[_Sample]:
    """Return the points in the order of time, the last one of each millisecond: Prometheus takes no more."""
    found = {
        # Cut off, as promtool does.
        int(time * 1000): _Sample(time, step, value)
        for step, time, value in points
        if time is not None and value is not None and 0 <= time <= _LATEST
    }
    return [found[time] for time in sorted(found)]


def _labels(name: str, field: str, run: Json) -> dict[str, str]:
    if name == "run_info":
        return _info(run)
    logged = {"metric": field.removeprefix(LOGGED)} if field.startswith(LOGGED) else {}
    return {"run": run["run_id"], **logged}


def _exposed(name: str, labels: dict[str, str], samples: Iterable[tuple[float, float]]) -> list[bytes]:
    described = family(name)
    metric = Metric(described.name.removesuffix("_info"), described.help, described.kind)
    for time, value in samples:
        metric.add_sample(described.name, labels, value, timestamp=time)
    written: bytes = generate_latest(_One(metric))  # type: ignore[no-untyped-call]
    return written.removesuffix(b"# EOF\n").splitlines(keepends=True)


class _One(Collector):
    """What there is to expose: one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def _info(run: Json) -> dict[str, str]:
    same = ("name", "model", "base", "base_fingerprint", "base_mode", "criterion", "visible_dtype")
    labels = {
        "run": run["run_id"],
        **{name: run[name] for name in same},
        "stored_dtypes": ",".join(run["stored_dtypes"]),
    }
    return labels | {named: run["labels"][key] for key, named in run["metric_label_names"].items()}
